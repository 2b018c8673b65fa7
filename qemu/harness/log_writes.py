"""A log of writes as dm-log-writes has it, and what a disk may hold when the power goes.

QEMU's blklogwrites writes such a log: of each write when it is done, and of each flush
when that is. A disk with a volatile cache holds, at any moment, everything that the last
flush was for, and of what came later any part.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

from .outcome import Failed

# Documentation/admin-guide/device-mapper/log-writes.rst, drivers/md/dm-log-writes.c
_MAGIC = 0x6A736677736872
_FLUSH, _DISCARD = 1, 4
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
_SECTOR = 512


@dataclass(frozen=True)
class Write:
    """One entry: where on the disk, how long, where its bytes are in the log."""

    offset: int
    size: int
    data_at: int
    is_flush: bool
    is_discard: bool


class Log:
    """The entries of a log, in order."""

    def __init__(self, path: Path):
        self.path = path
        with open(path, "rb") as log:
            sector = _sector(log.read(_SUPER.size), path)
            entries, at = number_of_entries(path), sector
            self.writes: list[Write] = []
            for _ in range(entries):
                log.seek(at)
                start, sectors, flags, _ = _ENTRY.unpack(log.read(_ENTRY.size))
                is_discard = bool(flags & _DISCARD)
                size = sectors * sector
                self.writes.append(Write(start * sector, size, at + sector, bool(flags & _FLUSH), is_discard))
                at += sector + (0 if is_discard else size)

    def apply(self, writes: list[Write], image: Path) -> None:
        """Writes them to an image, in that order."""
        with open(self.path, "rb") as log, open(image, "r+b") as disk:
            for write in writes:
                if write.size == 0:
                    continue
                log.seek(write.data_at)
                disk.seek(write.offset)
                disk.write(bytes(write.size) if write.is_discard else log.read(write.size))


def number_of_entries(path: Path) -> int:
    """As the log's head has it: those that a flush has followed, and perhaps more."""
    with open(path, "rb") as log:
        head = log.read(_SUPER.size)
    if len(head) < _SUPER.size:
        return 0
    _sector(head, path)
    return _SUPER.unpack(head)[2]


def _sector(head: bytes, path: Path) -> int:
    magic, version, _, sector = _SUPER.unpack(head)
    if (magic, version, sector) != (_MAGIC, 1, _SECTOR):
        raise Failed(f"{path} is no log of writes with sectors of {_SECTOR} bytes")
    return sector


def node(image: Path, log: Path) -> dict:
    """For Disk: the image, each write to which is logged."""
    log.touch()
    files = {name: {"driver": "file", "filename": str(path)} for name, path in (("file", image), ("log", log))}
    return {"driver": "blklogwrites", "log-sector-size": _SECTOR, **files}
