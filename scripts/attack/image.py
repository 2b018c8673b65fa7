"""The payload that is mounted: what each byte of each file is."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SPARSE = "sparse"
SPARSE_BYTES = 256 * GIB


@dataclass(frozen=True)
class File:
    name: str
    size: int
    # Where its bytes are in the noise. None: all are zero.
    start: int | None
    sha256: str | None


class Content:
    """Files of noise, and one that is far too large to be read in a round."""

    def __init__(self, seed: int):
        chance = random.Random(seed)
        self.noise = chance.randbytes(24 * MIB)
        sizes = [0, 1, 4095, 4096, 4097, 64 * KIB, MIB - 1, MIB + 1, 3 * MIB + 7, 6 * MIB, 9 * MIB + 4099]
        sizes += [chance.randrange(200 * KIB) for _ in range(150)]
        self.files = []
        for number, size in enumerate(sizes):
            start = chance.randrange(len(self.noise) - size)
            digest = hashlib.sha256(self.noise[start:start + size]).hexdigest()
            self.files.append(File(f"file-{number:03}", size, start, digest))
        self.large = [file for file in self.files if file.size > MIB]
        # A device shows only whole sectors, so the image ends with one.
        dense = 16 + sum(16 + len(file.name) + file.size for file in self.files) + 16 + len(SPARSE)
        self.sparse = File(SPARSE, SPARSE_BYTES - dense % 4096, None, None)
        self.all = [*self.files, self.sparse]

    def bytes_of(self, file: File, offset: int, length: int) -> bytes:
        end = min(offset + length, file.size)
        if file.start is None:
            return bytes(max(0, end - offset))
        return self.noise[file.start + offset:file.start + max(offset, end)]

    def write(self, path: Path) -> int:
        """Writes the image, sparse at its end, and returns the number of bytes before that."""
        with open(path, "wb") as out:
            out.write(b"LBPAYLD1" + len(self.all).to_bytes(8, "little"))
            for file in self.all:
                name = file.name.encode()
                out.write(len(name).to_bytes(8, "little") + file.size.to_bytes(8, "little") + name)
                if file.start is not None:
                    out.write(self.bytes_of(file, 0, file.size))
            dense = out.tell()
            out.truncate(dense + self.sparse.size)
        return dense
