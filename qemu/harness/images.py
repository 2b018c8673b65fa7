"""Payloads, written by hand: what the guest's importer is held to is not its own packer."""

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# Around every size at which the importer changes its way: sectors, pages, the
# small files' limit (64 KiB), and blocks of a MiB.
_SIZES = [0, 1, 511, 512, 513, 4095, 4096, 4097, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1]
_SIZES += [100_000, MIB - 1, MIB, MIB + 1, 3 * MIB + 7, 12 * MIB + 4099]


@dataclass(frozen=True)
class Payload:
    """An image, and what it holds: size and SHA-256 of each name."""

    path: Path
    files: dict[str, tuple[int, str]]
    bytes: int


def sample(seed: int = 1) -> list[tuple[str, int]]:
    """Names and sizes for a payload of some 17 MB, many small files among them."""
    chance = random.Random(seed)
    files = [(f"size-{size}.bin", size) for size in _SIZES]
    files += [(f"patch-{n:03}.diff", chance.randrange(9000)) for n in range(60)]
    files += [("Überraschung ☃.tar.xz", 70_001), ("x" * 251 + ".gz", 5), ("with blank", 10)]
    return sorted(files, key=lambda file: file[0].encode())


def write(path: Path, files: list[tuple[str, int]], seed: int = 1, dialect: str = "u64", holes=()) -> Payload:
    """Writes noise under these names, as FORMAT.md has it; zeroes under those in `holes`."""
    chance = random.Random(seed)
    width = {"u64": 8, "u32": 4}[dialect]
    known = {}
    with open(path, "wb") as out:
        out.write(b"LBPAYLD1" + len(files).to_bytes(width, "little"))
        for name, size in files:
            raw = name.encode()
            out.write(len(raw).to_bytes(width, "little") + size.to_bytes(width, "little") + raw)
            digest = hashlib.sha256()
            left = size
            while left:
                length = min(left, MIB)
                if name in holes:
                    digest.update(bytes(length))
                    out.seek(length, 1)
                else:
                    block = chance.randbytes(length)
                    digest.update(block)
                    out.write(block)
                left -= length
            known[name] = (size, digest.hexdigest())
        total = out.tell()
        out.truncate(total)
    return Payload(path, known, total)


def resize(path: Path, size: int) -> None:
    """Makes the image's file that long: sparse behind the payload, or cut short."""
    with open(path, "r+b") as image:
        image.truncate(size)


def partitioned(path: Path, parts: list[Path]) -> list[int]:
    """A disk with an MBR and a partition for each of `parts`; gives their offsets.

    Each begins at a multiple of 1 MiB and has the content of its part.
    """
    offsets, at = [], MIB
    for part in parts:
        offsets.append(at)
        at += -(-part.stat().st_size // MIB) * MIB
    table = bytearray(512)
    for number, (part, offset) in enumerate(zip(parts, offsets)):
        entry = bytearray(16)
        entry[4] = 0x83
        entry[8:12] = (offset // 512).to_bytes(4, "little")
        entry[12:16] = (-(-part.stat().st_size // 512)).to_bytes(4, "little")
        table[446 + 16 * number : 462 + 16 * number] = entry
    table[510:] = b"\x55\xaa"
    with open(path, "wb") as disk:
        disk.truncate(at)
        disk.write(table)
        for part, offset in zip(parts, offsets):
            copy(part, disk, offset)
    return offsets


def copy(source: Path, target, offset: int, start: int = 0, size: int | None = None) -> None:
    """Copies a file, or `size` bytes from `start`, into an open one at `offset`.

    Where there is nothing but zeroes it leaves holes.
    """
    target.seek(offset)
    left = source.stat().st_size - start if size is None else size
    with open(source, "rb") as data:
        data.seek(start)
        while block := data.read(min(left, MIB)):
            left -= len(block)
            if block.count(0) == len(block):
                target.seek(len(block), 1)
            else:
                target.write(block)
