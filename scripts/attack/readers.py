"""What the processes on the mount do. Each runs until it is killed, or for a number of steps."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import resource
import time
from pathlib import Path

from children import Wrong
from image import MIB, Content, File

SUM = "user.lbpayload.sha256"


def pick(chance: random.Random, content: Content) -> File:
    return chance.choice([chance.choice(content.large), chance.choice(content.files), content.sparse])


def compare(file: File, offset: int, found: bytes, wanted: bytes) -> None:
    if found != wanted:
        at = next((n for n, (a, b) in enumerate(zip(found, wanted)) if a != b), min(len(found), len(wanted)))
        raise Wrong(f"{file.name} at {offset}: {len(found)} bytes instead of {len(wanted)}, wrong from {offset + at}")


def compare_read(file: File, offset: int, found: bytes, wanted: bytes) -> None:
    """Compares what read(2) gave. A signal or an error may end it early, but never before its first byte."""
    if wanted and not found:
        raise Wrong(f"{file.name} at {offset}: it ends early")
    compare(file, offset, found, wanted[:len(found)])


def reader(chance: random.Random, point: Path, content: Content) -> None:
    while True:
        file = pick(chance, content)
        fd = os.open(point / file.name, os.O_RDONLY)
        for _ in range(chance.randrange(1, 30)):
            offset = chance.randrange(file.size + 5000)
            length = chance.choice([1, 100, 4096, 65536, chance.randrange(3 * MIB // 2)])
            found = os.pread(fd, length, offset)
            compare_read(file, offset, found, content.bytes_of(file, offset, length))
        if chance.random() < 0.3:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def direct_reader(chance: random.Random, point: Path, content: Content) -> None:
    room = mmap.mmap(-1, MIB)
    while True:
        file = pick(chance, content)
        fd = os.open(point / file.name, os.O_RDONLY | os.O_DIRECT)
        for _ in range(chance.randrange(1, 20)):
            offset = chance.randrange(file.size + 1) & ~4095
            length = chance.choice([4096, 65536, MIB])
            got = os.preadv(fd, [memoryview(room)[:length]], offset)
            compare(file, offset, room[:got], content.bytes_of(file, offset, length)[:got])
        os.close(fd)


def mapper(chance: random.Random, point: Path, content: Content) -> None:
    while True:
        file = chance.choice(content.large)
        fd = os.open(point / file.name, os.O_RDONLY)
        kind = chance.choice([mmap.MAP_PRIVATE, mmap.MAP_SHARED])
        pages = mmap.mmap(fd, file.size, flags=kind, prot=mmap.PROT_READ)
        os.close(fd)
        for _ in range(chance.randrange(1, 60)):
            offset = chance.randrange(file.size)
            length = chance.choice([1, 4096, 100_000])
            compare(file, offset, pages[offset:offset + length], content.bytes_of(file, offset, length))
            if chance.random() < 0.2:
                pages.madvise(mmap.MADV_DONTNEED)
        pages.close()


def summer(chance: random.Random, point: Path, content: Content) -> None:
    while True:
        file = chance.choice([content.sparse, chance.choice(content.files)])
        try:
            found = os.getxattr(point / file.name, SUM).decode()
        except OSError as e:
            if e.errno in (errno.EAGAIN, errno.EINTR):
                continue
            raise
        if found != file.sha256:
            raise Wrong(f"{file.name} has the sum {found}")


def lister(chance: random.Random, point: Path, content: Content) -> None:
    wanted = {file.name: file.size for file in content.all}
    while True:
        found = {entry.name: entry.stat().st_size for entry in os.scandir(point)}
        if found != wanted:
            raise Wrong(f"{len(found)} names instead of {len(wanted)}, or wrong sizes")
        if os.statvfs(point).f_files != len(wanted) + 1:
            raise Wrong("statfs counts other files")
        for name in os.listxattr(point):
            os.getxattr(point, name)
        if os.path.exists(point / f"missing-{chance.random()}"):
            raise Wrong("a name that is not there is found")


def opener(chance: random.Random, point: Path, content: Content) -> None:
    """Thousands of open directories and files, until it is killed."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    for _ in range(chance.randrange(1000, 6000)):
        os.open(chance.choice([point, point / chance.choice(content.files).name]), os.O_RDONLY)
    time.sleep(1000)


class _Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]


def handles(chance: random.Random, point: Path, content: Content) -> None:
    """Opens files by the handles that an NFS server would use."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(answer: int) -> int:
        if answer < 0:
            raise OSError(ctypes.get_errno(), "file handle")
        return answer

    known = {}
    mount = os.open(point, os.O_RDONLY | os.O_DIRECTORY)
    while True:
        file = chance.choice(content.files)
        handle = known.get(file.name)
        if handle is None:
            handle, which = _Handle(128), ctypes.c_int()
            path = os.fsencode(point / file.name)
            call(libc.name_to_handle_at(-100, path, ctypes.byref(handle), ctypes.byref(which), 0))
            known[file.name] = handle
        fd = call(libc.open_by_handle_at(mount, ctypes.byref(handle), os.O_RDONLY))
        offset = chance.randrange(file.size + 1)
        compare_read(file, offset, os.pread(fd, 5000, offset), content.bytes_of(file, offset, 5000))
        os.close(fd)


def checker(_chance: random.Random, point: Path, content: Content) -> None:
    """Reads everything once. Then nothing is wrong with any file."""
    for file in content.files:
        # What the kernel has in its cache is no news for the server.
        fd = os.open(point / file.name, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
        found = Path(point / file.name).read_bytes()
        compare(file, 0, found, content.bytes_of(file, 0, file.size))
        try:
            problem = os.getxattr(point / file.name, "user.lbpayload.problem")
        except OSError as e:
            if e.errno != errno.ENODATA:
                raise
        else:
            raise Wrong(f"{file.name} can be read but has a problem: {problem.decode()}")


ALL = [reader, reader, reader, direct_reader, mapper, mapper, summer, lister, opener, handles]
