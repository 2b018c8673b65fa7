/*
 * Reads below a mount point, one thread a job, and says how long it took.
 *
 *   reader read FILE...                whole files, a job each, 1 MiB a read
 *   reader random SECONDS JOBS FILE    4 KiB at random places of one file
 *   reader each DIRECTORY PREFIX       every file with that prefix, by name
 *
 * Why not fio: its start takes longer than some of what is measured, and it
 * may not be there.
 *
 * The random places are a shuffle of the file's pages, dealt to the jobs: none
 * is read twice, so no read finds what an earlier one left in the cache.  It
 * ends when the time is over or the shuffle is.  The kernel is told that the
 * order is random, as fio tells it.
 *
 * Standard output gets one JSON object: seconds from the first open to the end
 * of the last job, bytes, reads (or files).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (1 << 20)
#define PAGE  4096
#define JOBS  16

struct job {
	const char *path;
	const uint32_t *pages;	/* this job reads pages[first], pages[first + step], ... */
	size_t first, step, end;
	double deadline;
	uint64_t bytes, reads;
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *path)
{
	fprintf(stderr, "reader: %s: %s\n", path, strerror(errno));
	exit(1);
}

static char *buffer(size_t size)
{
	char *room;

	if ((errno = posix_memalign((void **)&room, PAGE, size)))
		die("memory");
	memset(room, 1, size);	/* its page faults are not what is measured */
	return room;
}

static uint64_t read_whole(const char *path, char *room)
{
	uint64_t bytes = 0;
	ssize_t got;
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		die(path);
	while ((got = read(fd, room, CHUNK)) > 0)
		bytes += (uint64_t)got;
	if (got < 0)
		die(path);
	close(fd);
	return bytes;
}

static void *job_read(void *argument)
{
	struct job *job = argument;
	char *room = buffer(CHUNK);

	job->bytes = read_whole(job->path, room);
	job->reads = 1;
	return NULL;
}

static void *job_random(void *argument)
{
	struct job *job = argument;
	char *room = buffer(PAGE);
	int fd = open(job->path, O_RDONLY);
	size_t i;

	if (fd < 0)
		die(job->path);
	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	for (i = job->first; i < job->end && now() < job->deadline; i += job->step) {
		if (pread(fd, room, PAGE, (off_t)job->pages[i] * PAGE) != PAGE)
			die(job->path);
		job->bytes += PAGE;
		job->reads++;
	}
	close(fd);
	return NULL;
}

/* xorshift64: the same order on every machine. */
static uint32_t *shuffled(size_t count)
{
	uint32_t *pages = malloc(count * sizeof *pages), kept;
	uint64_t state = 88172645463325252ULL;
	size_t i, other;

	if (!pages)
		die("memory");
	for (i = 0; i < count; i++)
		pages[i] = (uint32_t)i;
	for (i = count; i > 1; i--) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		other = state % i;
		kept = pages[i - 1];
		pages[i - 1] = pages[other];
		pages[other] = kept;
	}
	return pages;
}

static int run(struct job *jobs, int count, void *(*work)(void *))
{
	pthread_t threads[JOBS];
	uint64_t bytes = 0, reads = 0;
	double start = now();
	int i;

	for (i = 0; i < count; i++) {
		jobs[i].deadline += start;
		if ((errno = pthread_create(&threads[i], NULL, work, &jobs[i])))
			die("thread");
	}
	for (i = 0; i < count; i++) {
		pthread_join(threads[i], NULL);
		bytes += jobs[i].bytes;
		reads += jobs[i].reads;
	}
	return printf("{\"seconds\": %.6f, \"bytes\": %llu, \"reads\": %llu}\n", now() - start,
		      (unsigned long long)bytes, (unsigned long long)reads) < 0;
}

static int random_reads(struct job *jobs, double seconds, int count, const char *path)
{
	struct stat about;
	size_t pages;
	uint32_t *order;
	int i;

	if (stat(path, &about))
		die(path);
	pages = (size_t)about.st_size / PAGE;
	order = shuffled(pages);
	for (i = 0; i < count; i++)
		jobs[i] = (struct job){ .path = path, .pages = order, .first = (size_t)i,
					.step = (size_t)count, .end = pages, .deadline = seconds };
	return run(jobs, count, job_random);
}

static const char *prefix;

static int wanted(const struct dirent *entry)
{
	return !strncmp(entry->d_name, prefix, strlen(prefix));
}

/* What `cat DIRECTORY/PREFIX*` does: names, sorted, then one file after the other. */
static int each(const char *directory)
{
	struct dirent **names;
	char path[4096], *room = buffer(CHUNK);
	uint64_t bytes = 0;
	double start = now();
	int i, count = scandir(directory, &names, wanted, alphasort);

	if (count < 0)
		die(directory);
	for (i = 0; i < count; i++) {
		snprintf(path, sizeof path, "%s/%s", directory, names[i]->d_name);
		bytes += read_whole(path, room);
	}
	return printf("{\"seconds\": %.6f, \"bytes\": %llu, \"reads\": %d}\n", now() - start,
		      (unsigned long long)bytes, count) < 0;
}

int main(int argc, char **argv)
{
	struct job jobs[JOBS] = { 0 };
	int i;

	if (argc >= 3 && argc - 2 <= JOBS && !strcmp(argv[1], "read")) {
		for (i = 2; i < argc; i++)
			jobs[i - 2].path = argv[i];
		return run(jobs, argc - 2, job_read);
	}
	if (argc == 5 && !strcmp(argv[1], "random") && atoi(argv[3]) >= 1 && atoi(argv[3]) <= JOBS)
		return random_reads(jobs, atof(argv[2]), atoi(argv[3]), argv[4]);
	if (argc == 4 && !strcmp(argv[1], "each")) {
		prefix = argv[3];
		return each(argv[2]);
	}
	fprintf(stderr, "usage: reader read FILE... | random SECONDS JOBS FILE | each DIRECTORY PREFIX\n");
	return 1;
}
