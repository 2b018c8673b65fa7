"""Where a payload lies and where it goes: tmpfs, loop devices, filesystems.

Everything lives below one workspace directory. Undoing is not a matter of
remembering what was done: `sweep` looks at what the kernel has mounted or
attached below a directory and takes it down, so it works after any failure, and
for what a killed earlier run left behind as well.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import payloads

MIB = 1 << 20
GIB = 1 << 30

FILESYSTEMS = {"memory": ["tmpfs", "ext4", "xfs"], "disk": ["dir", "ext4", "xfs"]}
PREFIX = "lbpayload-bench."

# No lazy initialisation: it would write in the background of the first runs.
# No discard: it would give back the blocks that were allocated beforehand.
MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-K"],
}


class BenchError(Exception):
    """Something that the user can read and act upon."""


def call(*command: object) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise BenchError(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()


def warn(message: str) -> None:
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr, flush=True)


# Taking down.


def is_below(path: str, root: Path) -> bool:
    return path == str(root) or path.startswith(f"{root}/")


def mounts_below(root: Path) -> list[tuple[str, str]]:
    """(mount point, source) of all mounts below root, the latest first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        words = line.split()
        point = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), words[4])
        if is_below(point, root):
            found.append((point, words[words.index("-") + 2]))
    return found[::-1]


def loops_below(root: Path) -> list[str]:
    """Loop devices whose backing file lies below root."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            path = backing.read_text().rstrip("\n")
        except OSError:
            continue  # detached while we looked
        if is_below(path, root):
            found.append(f"/dev/{backing.parent.parent.name}")
    return found


def unmount(point: str) -> None:
    # Somebody may look into it just now (udev, an indexer): a few tries.
    for _ in range(20):
        if subprocess.run(["umount", point], stderr=subprocess.DEVNULL).returncode == 0:
            return
        time.sleep(0.1)
    warn(f"{point} is busy, unmounting it lazily")
    subprocess.run(["umount", "-l", point])


def sweep(root: Path) -> None:
    """Takes down everything below root, and root: inner mounts, loops, outer mounts, files."""
    for point, source in mounts_below(root):
        if source.startswith("/dev/loop"):
            unmount(point)
    for device in loops_below(root):
        subprocess.run(["losetup", "-d", device])
    for point, _ in mounts_below(root):
        unmount(point)
    if mounts_below(root):
        warn(f"{root} still holds mounts, left as it is")
        return
    shutil.rmtree(root, ignore_errors=True)


def sweep_leftovers(base: Path) -> None:
    """What earlier runs left that had no chance to clean up (kill -9)."""
    for root in base.glob(f"{PREFIX}*"):
        pid = root.name[len(PREFIX):]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            warn(f"cleaning up after an earlier run: {root}")
            sweep(root)


# Putting up.


@dataclass
class Loop:
    device: str
    direct: bool


def attach(image: Path, read_only: bool = False, sector: int = 512) -> Loop:
    """A loop device with direct I/O to its backing file where that allows it."""
    options = ["--find", "--show", f"--sector-size={sector}"] + ["--read-only"] * read_only
    device = call("losetup", *options, image)
    tried = subprocess.run(["losetup", "--direct-io=on", device], stderr=subprocess.DEVNULL)
    state = Path(f"/sys/block/{Path(device).name}/loop/dio").read_text().strip()
    return Loop(device, tried.returncode == 0 and state == "1")


def allocate(image: Path, size: int) -> None:
    """Writes the whole file: the first run must not pay for blocks the later ones find."""
    zeros = bytes(MIB)
    with open(image, "wb") as out:
        for _ in range(-(-size // MIB)):
            out.write(zeros)
        os.fsync(out.fileno())


def mount_tmpfs(directory: Path, size: int) -> None:
    directory.mkdir(parents=True)
    options = f"size={size},mode=0755,nr_inodes=0"
    call("mount", "-t", "tmpfs", "-o", options, "lbpayload-bench", directory)


def storage(directory: Path, place: str, size: int) -> None:
    if place == "memory":
        mount_tmpfs(directory, size)
    else:
        directory.mkdir(parents=True)


@dataclass
class Source:
    """The same files as a payload, as a tar and as a filesystem, each on a loop device."""

    payload: payloads.Payload
    device: str
    device_bytes: int
    device_sha256: str
    direct: bool
    sums: Path
    tar_device: str | None = None
    tree: Path | None = None


def tree_bytes(payload: payloads.Payload) -> int:
    """A filesystem that surely holds the files: whole blocks, inodes, and room."""
    blocks = sum(-(-file.size // 4096) + 1 for file in payload.files)
    return blocks * 4096 * 21 // 20 + 64 * MIB


def make_source(
    root: Path, payload: payloads.Payload, place: str, forms: set[str], sector: int
) -> Source:
    store = root / "source"
    storage(store, place, 3 * payload.bytes + tree_bytes(payload) + GIB)
    size, sha256 = payloads.write_image(payload, store / "payload.img")
    sums = root / "SHA256SUMS"
    payloads.write_sums(payload, sums)
    loop = attach(store / "payload.img", read_only=True, sector=sector)
    source = Source(payload, loop.device, size, sha256, loop.direct, sums)
    if "tar" in forms:
        payloads.write_tar(payload, store / "files.tar")
        source.tar_device = attach(store / "files.tar", read_only=True, sector=sector).device
    if "tree" in forms:
        source.tree = make_tree(root, payload, store / "files.ext4")
    return source


def make_ext4(root: Path, payload: payloads.Payload, image: Path) -> None:
    """An image whose root has the payload's files and nothing else."""
    point = root / "filling"
    point.mkdir()
    with open(image, "wb") as out:
        out.truncate(tree_bytes(payload))
    call(*MKFS["ext4"], "-m", "0", "-O", "^has_journal", "-N", len(payload.files) + 1000, image)
    filling = attach(image).device
    call("mount", filling, point)
    (point / "lost+found").rmdir()
    payloads.write_tree(payload, point)
    call("umount", point)
    call("losetup", "-d", filling)
    point.rmdir()


def make_tree(root: Path, payload: payloads.Payload, image: Path) -> Path:
    make_ext4(root, payload, image)
    point = root / "tree"
    point.mkdir()
    call("mount", "-o", "ro", attach(image, read_only=True).device, point)
    return point


def destination_bytes(payload: payloads.Payload) -> int:
    return tree_bytes(payload) * 5 // 4 + 512 * MIB


def make_destination(root: Path, payload: payloads.Payload, place: str, filesystem: str) -> Path:
    point, size = root / "dest", destination_bytes(payload)
    if filesystem == "dir":
        point.mkdir()
    elif filesystem == "tmpfs":
        mount_tmpfs(point, size + GIB)
    else:
        point.mkdir()
        storage(root / "dest-store", place, size + 64 * MIB)
        image = root / "dest-store" / "dest.img"
        allocate(image, size)
        call(*MKFS[filesystem], image)
        call("mount", attach(image).device, point)
    return point


def drop_destination(root: Path) -> None:
    sweep(root / "dest")
    sweep(root / "dest-store")


def free_memory() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(l.split()[1]) * 1024 for l in lines if l.startswith("MemAvailable"))


def check_room(base: Path, payload: payloads.Payload, place: str, filesystems: list[str]) -> None:
    # The image, the tar, the tree, what a run leaves, and air.
    left_by_run = payload.bytes
    if set(filesystems) & {"ext4", "xfs"}:
        left_by_run = destination_bytes(payload)
    need = 2 * payload.bytes + tree_bytes(payload) + left_by_run + GIB
    if place == "memory":
        free, where = free_memory(), "memory"
    else:
        free, where = shutil.disk_usage(base).free, str(base)
    if free < need:
        raise BenchError(
            f"payload {payload.key} in {place} needs {need / GIB:.1f} GiB in {where}, "
            f"{free / GIB:.1f} GiB are free; use --scale, --place or --work"
        )
