/*
 * Loaded into the program with LD_PRELOAD: records in order what it writes to one file or device,
 * with the bytes, so that a test can make the state after each of these writes. RECORD_WHAT is the
 * path of the file or device, or `new` for every regular file that is opened for writing in the
 * directory RECORD_IN. RECORD_TO is the log. With KILL_AT, the process is killed in place of
 * operation number KILL_AT, counted from 0.
 *
 * One record: a letter (W write, S sync, T truncate), offset, length (8 bytes each, in the order of
 * the machine), and the bytes of a write.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t count;

static int wanted(int fd)
{
	const char *what = getenv("RECORD_WHAT"), *in = getenv("RECORD_IN");
	struct stat have, want;
	char link[64], path[4096];
	ssize_t n;

	if (!what || fstat(fd, &have))
		return 0;
	if (!strcmp(what, "new")) {
		char *p = link + sizeof link;
		int v = fd;

		if (!S_ISREG(have.st_mode) || !in)
			return 0;
		*--p = 0;
		do
			*--p = '0' + v % 10;
		while (v /= 10);
		memmove(link + 14, p, strlen(p) + 1);
		memcpy(link, "/proc/self/fd/", 14);
		n = readlink(link, path, sizeof path - 1);
		return n > 0 && (path[n] = 0, !strncmp(path, in, strlen(in)));
	}
	if (stat(what, &want))
		return 0;
	if (S_ISBLK(want.st_mode))
		return S_ISBLK(have.st_mode) && have.st_rdev == want.st_rdev;
	return have.st_dev == want.st_dev && have.st_ino == want.st_ino;
}

static void all(int fd, const void *bytes, size_t len)
{
	while (len) {
		ssize_t n = syscall(SYS_write, fd, bytes, len);

		if (n <= 0)
			abort();
		bytes = (const char *)bytes + n;
		len -= n;
	}
}

/* Called with the lock held, before an operation. */
static void before(void)
{
	const char *at = getenv("KILL_AT");

	if (at && strtoull(at, NULL, 10) == count)
		kill(getpid(), SIGKILL);
	count++;
}

static void record(char kind, uint64_t offset, const void *bytes, uint64_t len)
{
	const char *to = getenv("RECORD_TO");
	int fd = to ? open(to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;

	if (fd < 0)
		return;
	all(fd, &kind, 1);
	all(fd, &offset, 8);
	all(fd, &len, 8);
	if (bytes)
		all(fd, bytes, len);
	close(fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t offset)
{
	ssize_t (*real)(int, const void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pwrite64");
	ssize_t n;

	if (!wanted(fd))
		return real(fd, bytes, len, offset);
	pthread_mutex_lock(&lock);
	before();
	n = real(fd, bytes, len, offset);
	if (n > 0)
		record('W', offset, bytes, n);
	pthread_mutex_unlock(&lock);
	return n;
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t offset)
{
	return pwrite64(fd, bytes, len, offset);
}

ssize_t write(int fd, const void *bytes, size_t len)
{
	ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
	ssize_t n;

	if (!wanted(fd))
		return real(fd, bytes, len);
	pthread_mutex_lock(&lock);
	before();
	n = real(fd, bytes, len);
	if (n > 0)
		record('W', lseek64(fd, 0, SEEK_CUR) - n, bytes, n);
	pthread_mutex_unlock(&lock);
	return n;
}

static int sync_with(const char *name, int fd)
{
	int (*real)(int) = dlsym(RTLD_NEXT, name);
	int result;

	if (!wanted(fd))
		return real(fd);
	pthread_mutex_lock(&lock);
	before();
	result = real(fd);
	if (!result)
		record('S', 0, NULL, 0);
	pthread_mutex_unlock(&lock);
	return result;
}

int fsync(int fd)
{
	return sync_with("fsync", fd);
}

int fdatasync(int fd)
{
	return sync_with("fdatasync", fd);
}

int ftruncate64(int fd, off64_t len)
{
	int (*real)(int, off64_t) = dlsym(RTLD_NEXT, "ftruncate64");
	int result;

	if (!wanted(fd))
		return real(fd, len);
	pthread_mutex_lock(&lock);
	before();
	result = real(fd, len);
	if (!result)
		record('T', 0, NULL, len);
	pthread_mutex_unlock(&lock);
	return result;
}
