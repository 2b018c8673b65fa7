/*
 * Loaded into the program with LD_PRELOAD: stands for code that a payload has taken over. Whenever
 * the program writes to a standard stream or answers the kernel, this tries to open the file BREAK_OUT,
 * and to create it with the suffix .new, and reports the errors on standard error (0 if it could).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int tried(const char *path, int flags)
{
	int fd = open(path, flags, 0600);

	return fd < 0 ? errno : (close(fd), 0);
}

static void break_out(void)
{
	const char *path = getenv("BREAK_OUT");
	char new[4096], said[64];
	int len;

	if (!path)
		return;
	snprintf(new, sizeof new, "%s.new", path);
	len = snprintf(said, sizeof said, "\nbreakout: read %d, write %d\n", tried(path, O_RDONLY),
		       tried(new, O_WRONLY | O_CREAT));
	syscall(SYS_write, 2, said, len);
}

ssize_t write(int fd, const void *bytes, size_t len)
{
	if (fd == 1 || fd == 2)
		break_out();
	return syscall(SYS_write, fd, bytes, len);
}

ssize_t writev(int fd, const struct iovec *vectors, int count)
{
	break_out();
	return syscall(SYS_writev, fd, vectors, count);
}
