"""The same files as an image of every kind that somebody here can mount."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import payloads
import places
from payloads import SEED, File, Payload
from places import GIB, BenchError, call

LARGE_BYTES = 512 << 20
SMALL_PREFIX = "small-"


@dataclass
class Content:
    payload: Payload
    large: list[str]
    small: list[str]

    @property
    def large_bytes(self) -> int:
        return self.payload.files[0].size


def content(large: int, scale: float) -> Content:
    """`large` files of 512 MiB and 20,000 of 4 to 64 KiB, in one directory as a payload has it."""
    # Whole pages, so that a random read never meets the end.
    size = max(1 << 20, int(LARGE_BYTES * scale) & ~4095)
    drawn = random.Random(f"{SEED}/mount")
    sizes = {f"large-{i}.bin": size for i in range(large)}
    sizes |= {
        f"{SMALL_PREFIX}{i:06}.patch": drawn.randint(4 << 10, 64 << 10)
        for i in range(max(10, round(20_000 * scale)))
    }
    files = [File(name, size, f"{SEED}/mount/{name}") for name, size in sizes.items()]
    small = [name for name in sizes if name.startswith(SMALL_PREFIX)]
    title = (
        f"{large} files of {size / (1 << 20):.4g} MiB and {len(small)} files of 4 to 64 KiB, "
        f"{sum(sizes.values()) / 1e9:.2f} GB in all"
    )
    return Content(Payload("mount", title, files), [f.name for f in files[:large]], small)


def tiny() -> Content:
    """What a peer mounts beforehand, so that no time includes the loading of its program."""
    return content(2, 0.0001)


def make(root: Path, what: Content, forms: set[str], lbpayload: Path) -> dict[str, Path]:
    """One file for each form below the directory `root`, which exists."""
    # Always: it is also the directory that the others are made from.
    images = {"ext4": root / "image.ext4"}
    places.make_ext4(root, what.payload, images["ext4"])
    tree = root / "tree"
    tree.mkdir()
    call("mount", "-o", "ro,loop", images["ext4"], tree)
    for form in sorted(forms - {"ext4"}):
        images[form] = root / f"image.{form}"
        write(form, what.payload, tree, images[form], lbpayload)
    places.unmount(str(tree))
    tree.rmdir()
    if "ext4" not in forms:
        images.pop("ext4").unlink()
    return images


def write(form: str, payload: Payload, tree: Path, image: Path, lbpayload: Path) -> None:
    if form == "payload":
        call(lbpayload, "pack", "-q", "-o", image, tree)
    elif form == "erofs":
        call("mkfs.erofs", "--quiet", image, tree)
    elif form == "squashfs":
        # Nothing compressed: inodes, data, fragments, attributes.
        call("mksquashfs", tree, image, "-noI", "-noD", "-noF", "-noX", "-no-progress", "-quiet")
    elif form == "tar":
        payloads.write_tar(payload, image)


def check_room(base: Path, what: Content, place: str, forms: set[str]) -> int:
    """The bytes that the images will take."""
    images = len(forms | {"ext4"}) * places.tree_bytes(what.payload)
    if place == "memory":
        # Two readers' page cache, and whatever the machine does besides.
        need, free, where = images + 2 * what.large_bytes + GIB, places.free_memory(), "memory"
    else:
        need, free, where = images + GIB, shutil.disk_usage(base).free, str(base)
    if free < need:
        raise BenchError(
            f"{len(forms)} images in {place} need {need / GIB:.1f} GiB in {where}, "
            f"{free / GIB:.1f} GiB are free; use --large 2, --scale, --peers, --place or --work"
        )
    return images


# What a mount must show.


def problem(what: Content, point: Path) -> str | None:
    """What is wrong with a mounted image, or None. Looks at every name and size, and at
    the bytes of some files: an archive that unpacks as it goes would take minutes for all."""
    wanted = {file.name: file.size for file in what.payload.files}
    found = {entry.name: entry.stat().st_size for entry in point.iterdir()}
    if found != wanted:
        odd = sorted(name for name, _ in found.items() ^ wanted.items())
        return f"{len(found)} names instead of {len(wanted)}, or wrong sizes, for example {odd[0]}"
    large, small = len(what.large), len(what.small)
    some = what.payload.files[:large] + what.payload.files[large::max(1, small // 20)]
    for file in some:
        with open(point / file.name, "rb") as data:
            first = next(file.chunks())
            if data.read(len(first)) != first:
                return f"{file.name}: wrong bytes"
    return None
