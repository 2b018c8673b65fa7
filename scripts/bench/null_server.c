/*
 * What the kernel's FUSE leaves to a server: two files of 512 MiB, served in one of three ways.
 *
 *   null_server zero|copy|splice IMAGE OFFSET DIRECTORY
 *
 * zero answers each read from memory, without any source: no server can be faster. copy reads the
 * bytes of the image and writes them to the kernel. splice moves them there through a pipe.
 */
#define FUSE_USE_VERSION 314
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB (1 << 20)
#define FOREVER 1e9

static const off_t size = 512L * MIB;
static const char *how;
static int image;
static off_t start;
static char *memory;

static void describe(fuse_ino_t inode, struct stat *stat)
{
	memset(stat, 0, sizeof(*stat));
	stat->st_ino = inode;
	stat->st_mode = inode == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0444;
	stat->st_nlink = 1;
	stat->st_size = inode == FUSE_ROOT_ID ? 0 : size;
}

static void getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
	struct stat stat;

	describe(inode, &stat);
	fuse_reply_attr(request, &stat, FOREVER);
}

static void lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry = { .attr_timeout = FOREVER, .entry_timeout = FOREVER };

	if (strcmp(name, "large-0") && strcmp(name, "large-1")) {
		fuse_reply_err(request, ENOENT);
		return;
	}
	entry.ino = 2 + name[6] - '0';
	describe(entry.ino, &entry.attr);
	fuse_reply_entry(request, &entry);
}

static void no_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
	fuse_reply_err(request, ENOSYS);
}

static void read_file(fuse_req_t request, fuse_ino_t inode, size_t want, off_t offset, struct fuse_file_info *info)
{
	static __thread char *buffer;
	off_t at = start + (inode - 2) * size + offset;

	if (offset + (off_t)want > size)
		want = size - offset;
	if (!strcmp(how, "zero")) {
		fuse_reply_buf(request, memory, want);
	} else if (!strcmp(how, "copy")) {
		if (!buffer)
			buffer = aligned_alloc(4096, MIB);
		fuse_reply_buf(request, buffer, pread(image, buffer, want, at));
	} else {
		struct fuse_bufvec from = FUSE_BUFVEC_INIT(want);

		from.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
		from.buf[0].fd = image;
		from.buf[0].pos = at;
		fuse_reply_data(request, &from, 0);
	}
}

static void init(void *data, struct fuse_conn_info *connection)
{
	connection->max_background = 64;
	connection->max_write = MIB;
	connection->want |= connection->capable &
		(FUSE_CAP_NO_OPEN_SUPPORT | FUSE_CAP_ASYNC_READ | FUSE_CAP_SPLICE_WRITE);
}

static const struct fuse_lowlevel_ops operations = {
	.init = init, .lookup = lookup, .getattr = getattr, .open = no_open, .read = read_file,
};

int main(int count, char **words)
{
	char *name[] = { "null_server", NULL };
	struct fuse_args arguments = FUSE_ARGS_INIT(1, name);
	struct fuse_session *session;

	if (count != 5)
		return 2;
	how = words[1];
	image = open(words[2], O_RDONLY | O_CLOEXEC);
	start = atoll(words[3]);
	memory = aligned_alloc(4096, MIB);
	memset(memory, 1, MIB);
	session = fuse_session_new(&arguments, &operations, sizeof(operations), NULL);
	if (image < 0 || !session || fuse_session_mount(session, words[4])) {
		perror("null_server");
		return 1;
	}
	fuse_daemonize(0);
	fuse_session_loop_mt(session, fuse_loop_cfg_create());
	fuse_session_unmount(session);
	return 0;
}
