/*
 * A stand-in for the reference importer's way of importing an LBPAYLD1 image,
 * for comparison in scripts/bench-import.  Written from FORMAT.md alone, not
 * from the upstream source.
 *
 *   reference-import --device DEVICE DEST
 *
 * The point is the way it copies: plain stdio, one 64 KiB buffer, fread then
 * fwrite, one file after the other, no sync, no checks of the content.  The
 * benchmark adds the sync from outside, to every contender alike.  Only the
 * u64 dialect is read, the one the benchmark makes.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define CHUNK     (64 * 1024)
#define NAME_MAX_BYTES 1024
#define FILES_MAX 200000

static const char *device;

static int fail(const char *what, const char *on)
{
	fprintf(stderr, "reference-import: %s: %s: %s\n", on, what,
		errno ? strerror(errno) : "bad or short image");
	return -1;
}

static int read_exact(FILE *in, void *into, size_t length)
{
	errno = 0;
	if (fread(into, 1, length, in) != length)
		return fail("read", device);
	return 0;
}

static int read_u64(FILE *in, uint64_t *value)
{
	unsigned char raw[8];
	int i;

	if (read_exact(in, raw, sizeof raw))
		return -1;
	*value = 0;
	for (i = 7; i >= 0; i--)
		*value = *value << 8 | raw[i];
	return 0;
}

static int read_name(FILE *in, char *name, uint64_t length)
{
	errno = 0;
	if (length == 0 || length > NAME_MAX_BYTES)
		return fail("name length", device);
	if (read_exact(in, name, (size_t)length))
		return -1;
	name[length] = '\0';
	if (strlen(name) != length || strpbrk(name, "/\\") ||
	    !strcmp(name, ".") || !strcmp(name, ".."))
		return fail("name", device);
	return 0;
}

static int copy_bytes(FILE *in, FILE *out, const char *path, uint64_t left)
{
	static char chunk[CHUNK];

	while (left > 0) {
		size_t now = left < CHUNK ? (size_t)left : CHUNK;

		if (read_exact(in, chunk, now))
			return -1;
		if (fwrite(chunk, 1, now, out) != now)
			return fail("write", path);
		left -= now;
	}
	return 0;
}

static int import_one(FILE *in, const char *dest)
{
	char name[NAME_MAX_BYTES + 1], path[8192];
	uint64_t name_length, size;
	FILE *out;
	int bad;

	if (read_u64(in, &name_length) || read_u64(in, &size) ||
	    read_name(in, name, name_length))
		return -1;
	errno = ENAMETOOLONG;
	if (snprintf(path, sizeof path, "%s/%s", dest, name) >= (int)sizeof path)
		return fail("path", name);
	printf("payload-import: %s\n", name);
	out = fopen(path, "wb");
	if (!out)
		return fail("create", path);
	bad = copy_bytes(in, out, path, size);
	if (fclose(out) && !bad)
		bad = fail("close", path);
	return bad;
}

static int import_all(FILE *in, const char *dest)
{
	char magic[8];
	uint64_t count, i;

	if (read_exact(in, magic, sizeof magic))
		return -1;
	errno = 0;
	if (memcmp(magic, "LBPAYLD1", sizeof magic))
		return fail("magic", device);
	if (read_u64(in, &count))
		return -1;
	errno = 0;
	if (count > FILES_MAX)
		return fail("file count", device);
	printf("payload-import: reading %llu files from %s\n",
	       (unsigned long long)count, device);
	for (i = 0; i < count; i++)
		if (import_one(in, dest))
			return -1;
	return 0;
}

int main(int argc, char **argv)
{
	FILE *in;

	if (argc != 4 || strcmp(argv[1], "--device")) {
		fprintf(stderr, "usage: reference-import --device DEVICE DEST\n");
		return 1;
	}
	device = argv[2];
	if (mkdir(argv[3], 0755) && errno != EEXIST)
		return -fail("mkdir", argv[3]);
	in = fopen(device, "rb");
	if (!in) {
		fail("open", device);
		return 1;
	}
	return import_all(in, argv[3]) ? 1 : 0;
}
