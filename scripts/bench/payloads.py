"""The three payloads, the same bytes on every machine, and the images made of them.

Every file's bytes come from a pseudo-random stream of its own, seeded with its
payload and index, so that each image can be written in one pass and in any
order, and nothing can compress them or find zeros in them.
"""

from __future__ import annotations

import hashlib
import os
import random
import struct
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Iterator

SEED = "lbpayload-bench-1"
CHUNK = 1 << 20
# Whole dd blocks, so that no tool has to end on a partial one.
DEVICE_ALIGNMENT = 4 << 20


@dataclass
class File:
    name: str
    size: int
    seed: str

    def chunks(self) -> Iterator[bytes]:
        stream = random.Random(self.seed)
        left = self.size
        while left > 0:
            now = min(CHUNK, left)
            yield stream.randbytes(now)
            left -= now


@dataclass
class Payload:
    key: str
    title: str
    files: list[File]
    sha256: dict[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)


def make(key: str, scale: float) -> Payload:
    sizes = {"A": large, "B": archives, "C": small}[key](scale)
    stem = {"A": "large", "B": "archive", "C": "small"}[key]
    suffix = {"A": ".bin", "B": ".tar.gz", "C": ".patch"}[key]
    files = [
        File(f"{stem}-{i:06}{suffix}", size, f"{SEED}/{key}/{i}")
        for i, size in enumerate(sizes)
    ]
    return Payload(key, title(key, sizes), files)


def large(scale: float) -> list[int]:
    return [max(1, int((256 << 20) * scale))] * 8


def archives(scale: float) -> list[int]:
    """Log-normal with a median of about 1.5 MB and a mean of 2 GB / 300.

    mean = median * exp(sigma^2 / 2) gives sigma; a finite sample lands beside
    its mean, so the sizes are scaled to the total in the end.
    """
    count = max(5, round(300 * scale))
    total = 2_000_000_000 * count // 300
    stream = random.Random(f"{SEED}/sizes")
    drawn = [1.5e6 * stream.lognormvariate(0, 1.727) for _ in range(count)]
    return [max(1, int(size * total / sum(drawn))) for size in drawn]


def small(scale: float) -> list[int]:
    stream = random.Random(f"{SEED}/small")
    return [stream.randint(4 << 10, 16 << 10) for _ in range(max(10, round(50_000 * scale)))]


def title(key: str, sizes: list[int]) -> str:
    total, middle = sum(sizes), sorted(sizes)[len(sizes) // 2]
    if key == "A":
        return f"{len(sizes)} files of {sizes[0] / (1 << 20):g} MiB"
    if key == "B":
        return f"{len(sizes)} archives, median {middle / 1e6:.2f} MB, {total / 1e9:.2f} GB in all"
    return f"{len(sizes)} files of 4 to 16 KiB, {total / 1e6:.0f} MB in all"


# Images. Each writer makes one whole file that a loop device then shows.


def pad(out: BinaryIO) -> int:
    size = -(-out.tell() // DEVICE_ALIGNMENT) * DEVICE_ALIGNMENT
    out.write(bytes(size - out.tell()))
    return size


def write_image(payload: Payload, path: Path) -> tuple[int, str]:
    """Writes LBPAYLD1 (FORMAT.md) and learns every file's checksum on the way.

    Returns the size with its padding, and the checksum of the whole.
    """
    with open(path, "wb") as out:
        out.write(b"LBPAYLD1" + struct.pack("<Q", len(payload.files)))
        for file in payload.files:
            name = file.name.encode()
            out.write(struct.pack("<QQ", len(name), file.size) + name)
            digest = hashlib.sha256()
            for chunk in file.chunks():
                digest.update(chunk)
                out.write(chunk)
            payload.sha256[file.name] = digest.hexdigest()
        size = pad(out)
    return size, sha256_of(path, size)


def write_tar(payload: Payload, path: Path) -> None:
    with open(path, "wb") as out:
        for file in payload.files:
            header = tarfile.TarInfo(file.name)
            header.size = file.size
            out.write(header.tobuf(tarfile.GNU_FORMAT))
            for chunk in file.chunks():
                out.write(chunk)
            out.write(bytes(-file.size % tarfile.BLOCKSIZE))
        out.write(bytes(2 * tarfile.BLOCKSIZE))
        pad(out)


def write_tree(payload: Payload, directory: Path) -> None:
    for file in payload.files:
        with open(directory / file.name, "wb") as out:
            for chunk in file.chunks():
                out.write(chunk)


def write_sums(payload: Payload, path: Path) -> None:
    path.write_text("".join(f"{sha}  {name}\n" for name, sha in payload.sha256.items()))


# What a run must leave behind.


def sha256_of(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as data:
        while size > 0:
            chunk = data.read(min(CHUNK, size))
            if not chunk:
                break
            digest.update(chunk)
            size -= len(chunk)
    return digest.hexdigest()


def problem_with_files(payload: Payload, directory: Path) -> str | None:
    """What is wrong with an imported directory, or None."""
    wanted = {file.name: file.size for file in payload.files}
    found = {entry.name: entry.stat().st_size for entry in os.scandir(directory)}
    if found.keys() != wanted.keys():
        odd = sorted(found.keys() ^ wanted.keys())
        return f"{len(found)} names instead of {len(wanted)}, for example {odd[0]}"
    for name, size in wanted.items():
        if found[name] != size:
            return f"{name}: {found[name]} bytes instead of {size}"
        if sha256_of(directory / name, size) != payload.sha256[name]:
            return f"{name}: wrong bytes"
    return None


def problem_with_copy(image: Path, size: int, sha256: str) -> str | None:
    """What is wrong with a copy of the whole device, or None."""
    found = image.stat().st_size
    if found != size:
        return f"{found} bytes instead of {size}"
    return None if sha256_of(image, size) == sha256 else "wrong bytes"
