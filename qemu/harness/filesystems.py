"""Destinations: file systems made here, and read back here, behind the guest's back."""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .images import copy
from .outcome import Failed, NotSetUp, Skipped

_LABEL = "destination"

# The label comes behind the last word.
_MAKE = {
    "ext3": ["mkfs.ext3", "-q", "-F", "-L"],
    "ext4": ["mkfs.ext4", "-q", "-F", "-L"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-L"],
    "btrfs": ["mkfs.btrfs", "-q", "-f", "-L"],
    "vfat": ["mkfs.vfat", "-n"],
}

# What the guest's kernel must load to mount it.
MODULES = {
    "ext3": ["ext4"],
    "ext4": ["ext4"],
    "xfs": ["xfs"],
    "btrfs": ["btrfs"],
    "vfat": ["vfat", "nls_cp437", "nls_ascii", "nls_utf8", "nls_iso8859_1"],
    "tmpfs": [],
}


@dataclass(frozen=True)
class Destination:
    """A disk image that is one file system, or has it in a partition at `offset`."""

    path: Path
    kind: str
    offset: int = 0
    size: int = 0


def label(kind: str | None) -> str:
    """By which the guest finds its destination among the disks."""
    return _LABEL.upper() if kind == "vfat" else _LABEL


def make(path: Path, kind: str, size: int, sector: int = 512, label: str = _LABEL) -> Destination:
    """A sparse image of `size` bytes, with an empty file system on it."""
    with open(path, "wb") as image:
        image.truncate(size)
    extra = []
    if sector != 512:
        block = ["-b", str(sector)]
        extra = {"ext3": block, "ext4": block, "xfs": ["-s", f"size={sector}"], "vfat": ["-S", str(sector)]}[kind]
    _ran([*_MAKE[kind], label.upper() if kind == "vfat" else label, *extra, path])
    return Destination(path, kind, size=size)


def read_back(destination: Destination) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of everything in distfiles/ on the image, after its recovery.

    The guest was cut off, so the journal is brought in first, as the next boot would.
    """
    if destination.offset:
        destination = _taken_out(destination)
    with files(destination) as external:
        return contents(external / "distfiles")


def read_archive(path: Path) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of what the guest has written to a disk as a tar archive."""
    found = {}
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            if member.isfile():
                digest = hashlib.file_digest(archive.extractfile(member), "sha256")
                found[member.name.removeprefix("./")] = (member.size, digest.hexdigest())
    return found


def _taken_out(destination: Destination) -> Destination:
    """The partition as an image of its own."""
    path = destination.path.with_suffix(".partition")
    with open(path, "wb") as out:
        out.truncate(destination.size)
        copy(destination.path, out, 0, destination.offset, destination.size)
    return replace(destination, path=path, offset=0)


def contents(directory: Path) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 by name; what is no regular file is told as such.

    The staging directory may come back when the power goes right after an import (see
    SEMANTICS.md), but empty.
    """
    found = {}
    for entry in sorted(os.scandir(directory), key=lambda e: e.name) if directory.is_dir() else []:
        if entry.name == ".lbpayload-staging" and entry.is_dir() and not os.listdir(entry):
            continue
        if not entry.is_file(follow_symlinks=False):
            found[entry.name] = (-1, "not a regular file")
            continue
        with open(entry.path, "rb") as file:
            found[entry.name] = (entry.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
    return found


def compare(found: dict, wanted: dict, where: str) -> None:
    """Fails with the first few differences."""
    wrong = [f"{name} is missing" for name in wanted if name not in found]
    wrong += [f"{name} is there and should not be" for name in found if name not in wanted]
    wrong += [f"{name} is {found[name]} instead of {wanted[name]}" for name in wanted if found.get(name, wanted[name]) != wanted[name]]
    if wrong:
        raise Failed(f"{where}: {'; '.join(wrong[:3])}; {len(wrong)} differences among {len(wanted)} files")


def digest(data: bytes) -> tuple[int, str]:
    """Size and SHA-256."""
    return len(data), hashlib.sha256(data).hexdigest()


@contextmanager
def mounted(destination: Destination):
    """As `files`, by the host's kernel whatever the kind is: the quicker way."""
    yield from _by_mount(destination)


@contextmanager
def files(destination: Destination):
    """The directory that was /external in the guest, for as long as the `with` lasts."""
    if destination.kind in ("ext3", "ext4"):
        yield from _by_debugfs(destination.path)
    elif destination.kind == "vfat":
        yield from _by_mtools(destination.path)
    else:
        yield from _by_mount(destination)


def _by_debugfs(image: Path):
    """Needs neither root nor the host's kernel."""
    _there("debugfs")
    # 1: errors were corrected, which the journal's recovery counts as.
    done = subprocess.run(["e2fsck", "-f", "-p", image], capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise Failed(f"e2fsck of {image}: status {done.returncode}: {done.stdout.strip()}")
    with tempfile.TemporaryDirectory(dir=image.parent) as top:
        done = subprocess.run(["debugfs", "-R", f"rdump /external {top}", image], capture_output=True, text=True)
        # It has no exit status of use. Its first line is its version; that users get no
        # file of root's, and a guest that made no /external, are no failures.
        expected = ("while changing ownership", "File not found by ext2_lookup")
        wrong = [line for line in done.stderr.splitlines()[1:] if not any(words in line for words in expected)]
        if wrong:
            raise Failed(f"debugfs of {image}: {wrong[0]}")
        yield Path(top, "external")


def _by_mtools(image: Path):
    """FAT cannot be a root with programs on it, so it was /external itself.

    It keeps no journal: what fsck reclaims is what was lost.
    """
    _there("fsck.vfat")
    done = subprocess.run(["fsck.vfat", "-n", image], capture_output=True, text=True)
    if "Reclaimed" in done.stdout:
        raise Failed(f"{image} lost data: {done.stdout.strip()}")
    with tempfile.TemporaryDirectory(dir=image.parent) as top:
        _ran(["mcopy", "-s", "-i", image, "::/*", top], MTOOLS_SKIP_CHECK="1", LC_ALL="C.UTF-8")
        yield Path(top)


def _by_mount(destination: Destination):
    """The host's kernel recovers the journal, as the guest's would."""
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        raise NotSetUp(f"reading {destination.kind} back takes root and loop devices")
    if destination.kind not in Path("/proc/filesystems").read_text().split():
        subprocess.run(["modprobe", destination.kind], capture_output=True)
    done = subprocess.run(["losetup", "--find", "--show", destination.path], capture_output=True, text=True)
    if done.returncode:
        raise NotSetUp(f"reading {destination.kind} back takes a loop device: {done.stderr.strip()}")
    device = done.stdout.strip()
    top = Path(tempfile.mkdtemp(dir=destination.path.parent))
    try:
        done = subprocess.run(["mount", "-o", "ro", "-t", destination.kind, device, top], capture_output=True, text=True)
        if "unknown filesystem type" in done.stderr:
            raise Skipped(f"this machine's kernel has no {destination.kind} to read the result back")
        if done.returncode:
            raise Failed(f"{destination.path} cannot be mounted: {done.stderr.strip()}")
        try:
            yield top / "external"
        finally:
            _unmounted(top)
    finally:
        _ran(["losetup", "--detach", device])
        top.rmdir()


def _unmounted(top: Path) -> None:
    """Another case's thread, which starts a program, has our files open until that runs."""
    for _ in range(500):
        done = subprocess.run(["umount", top], capture_output=True, text=True)
        if "busy" not in done.stderr:
            break
        time.sleep(0.02)
    if done.returncode:
        raise Failed(f"umount {top}: {done.stderr.strip()}")


def _ran(words: list, **environment: str) -> None:
    _there(words[0])
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise Failed(f"{' '.join(map(str, words))}: {done.stderr.strip() or done.stdout.strip()}")


def _there(command: str) -> None:
    if not shutil.which(command):
        raise NotSetUp(f"{command} is not installed; scripts/setup qemu installs it, as root")
