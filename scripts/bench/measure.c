/*
 * Runs one command and says what it cost.
 *
 *   measure REPORT SYNC_DIR COMMAND [ARGUMENT...]
 *
 * Why not from Python: a child inherits the peak memory that its parent had
 * when it was forked, so below a Python of 15 MiB no tool could ever show
 * less.  And the clock should stop here, not when a poll loop notices.
 *
 * The time runs from before the fork until syncfs(SYNC_DIR) is back, so every
 * command ends with its data on stable storage.  Helpers that outlive the
 * command (a server that it started) are waited for and counted, but not timed.
 *
 * REPORT gets one JSON object.  Peak memory is that of the largest single
 * process.  Exit status: 0 when the command was run, whatever it answered.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double seconds(struct timeval t)
{
	return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static int die(const char *what)
{
	fprintf(stderr, "measure: %s: %s\n", what, strerror(errno));
	return 1;
}

int main(int argc, char **argv)
{
	struct rusage self, children;
	double start, exited, synced;
	int status = 0, dir;
	pid_t child;
	FILE *report;

	if (argc < 4) {
		fprintf(stderr, "usage: measure REPORT SYNC_DIR COMMAND...\n");
		return 1;
	}
	dir = open(argv[2], O_RDONLY | O_DIRECTORY);
	if (dir < 0)
		return die(argv[2]);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	/* A bench that was killed must not leave its command running. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);

	start = now();
	child = fork();
	if (child < 0)
		return die("fork");
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execvp(argv[3], argv + 3);
		_exit(die(argv[3]) + 126);
	}
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return die("wait");
	exited = now();
	if (syncfs(dir) < 0)
		return die("syncfs");
	synced = now();

	while (wait(NULL) > 0 || errno == EINTR)
		;
	getrusage(RUSAGE_SELF, &self);
	getrusage(RUSAGE_CHILDREN, &children);

	report = fopen(argv[1], "w");
	if (!report)
		return die(argv[1]);
	fprintf(report,
		"{\"status\": %d, \"wall\": %.6f, \"sync\": %.6f, "
		"\"user\": %.6f, \"system\": %.6f, \"peak_rss\": %ld}\n",
		WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
		synced - start, synced - exited,
		seconds(children.ru_utime) + seconds(self.ru_utime),
		seconds(children.ru_stime) + seconds(self.ru_stime),
		children.ru_maxrss * 1024);
	return fclose(report) ? die(argv[1]) : 0;
}
