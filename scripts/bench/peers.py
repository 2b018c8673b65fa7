"""Who runs against whom, and with which words.

A peer is either `files` (leaves the payload's files), `image` (leaves one copy of
the whole device, so it has no small files to make) or `limit` (moves bytes that
nobody keeps: what the device or the destination can do).
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from places import Source

ALL = ["ours", "ours-sums", "reference", "dd", "tar", "cp", "nbdcopy", "qemu-img", "fio"]

# Tool to Debian package, for the line that says what is missing.
PACKAGES = {
    "dd": "coreutils",
    "cp": "coreutils",
    "tar": "tar",
    "nbdcopy": "libnbd-bin",
    "nbdkit": "nbdkit",
    "qemu-img": "qemu-utils",
    "fio": "fio",
    "strace": "strace",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "losetup": "mount",
    "mount": "mount",
    "cc": "gcc libc6-dev",
}

VERSION_FLAGS = {
    "dd": "--version",
    "cp": "--version",
    "tar": "--version",
    "nbdcopy": "--version",
    "nbdkit": "--version",
    "qemu-img": "--version",
    "fio": "--version",
}


def missing(tool: str) -> str | None:
    """A line about a tool that is not there, or None."""
    if shutil.which(tool):
        return None
    return f"{tool} is missing: apt-get install {PACKAGES[tool]}"


@dataclass
class Peer:
    key: str
    label: str
    kind: str
    tools: list[str]
    command: Callable[[Source, Path], list[str]]
    form: str = "image"
    # The binary to run once after the caches were dropped, so that nobody's
    # time and page cache include the loading of its own program.
    warm: list[str] | None = None

    def why_not(self) -> str | None:
        for tool in self.tools:
            if tool.startswith("/"):
                if not Path(tool).exists():
                    return f"{tool} is not there: cargo build --release"
            elif missing(tool):
                return missing(tool)
        return None

    def warm_commands(self) -> list[list[str]]:
        if self.warm:
            return [self.warm]
        return [[tool, VERSION_FLAGS[tool]] for tool in self.tools if tool in VERSION_FLAGS]


def choose(names: list[str], lbpayload: Path, variants: list[str], reference: Path, engine: str) -> list[Peer]:
    known = {peer.key: peer for peer in everyone(lbpayload, reference, engine)}
    chosen = []
    for name in names:
        keys = ["fio-read", "fio-write", "fio-both"] if name == "fio" else [name]
        chosen += [known[key] for key in keys]
        if name == "ours":
            chosen += [ours(lbpayload, extra) for extra in variants]
    return chosen


def ours(binary: Path, extra: str = "", sums: bool = False) -> Peer:
    def command(source: Source, out: Path) -> list[str]:
        words = [str(binary), "import", "--device", source.device]
        words += ["--checksums", str(source.sums)] * sums
        return words + shlex.split(extra) + [str(out)]

    key = " ".join(["ours-sums" if sums else "ours", *shlex.split(extra)])
    label = "lbpayload" + " with checksums" * sums + (f" {extra}" if extra else "")
    return Peer(key, label, "files", [str(binary)], command, warm=[str(binary), "--version"])


def everyone(lbpayload: Path, reference: Path, engine: str) -> list[Peer]:
    return [
        ours(lbpayload),
        ours(lbpayload, sums=True),
        Peer(
            "reference", "reference importer", "files", [str(reference)],
            lambda source, out: [str(reference), "--device", source.device, str(out)],
            warm=[str(reference)],
        ),
        Peer("dd", "dd direct, 4 MiB", "image", ["dd"], dd),
        Peer("tar", "tar x", "files", ["tar"], tar, form="tar"),
        Peer("cp", "cp -r", "files", ["cp"], cp, form="tree"),
        Peer("nbdcopy", "nbdcopy", "image", ["nbdcopy", "nbdkit"], nbdcopy),
        Peer("qemu-img", "qemu-img convert", "image", ["qemu-img"], qemu_img),
        Peer("fio-read", "fio read (limit)", "limit", ["fio"], fio_read(engine)),
        Peer("fio-write", "fio write (limit)", "limit", ["fio"], fio_write(engine)),
        Peer("fio-both", "fio read and write (limit)", "limit", ["fio"], fio_both(engine)),
    ]


def dd(source: Source, out: Path) -> list[str]:
    return [
        "dd", f"if={source.device}", f"of={out}/image",
        "iflag=direct", "oflag=direct", "bs=4M", "status=none",
    ]


def tar(source: Source, out: Path) -> list[str]:
    # Owners, modes and times are no part of a payload: tar need not set them.
    return [
        "tar", "-x", "-f", str(source.tar_device), "-C", str(out),
        "--no-same-owner", "--no-same-permissions", "--touch",
    ]


def cp(source: Source, out: Path) -> list[str]:
    return ["cp", "-r", f"{source.tree}/.", str(out)]


def nbdcopy(source: Source, out: Path) -> list[str]:
    # The two hints make nbdkit drop what it has read; in a quick try steadier than
    # without, and never slower than qemu-nbd.
    return [
        "nbdcopy", "--", "[", "nbdkit", "--exit-with-parent", "-r", "file",
        source.device, "cache=none", "fadvise=sequential", "]", f"{out}/image",
    ]


def qemu_img(source: Source, out: Path) -> list[str]:
    return [
        "qemu-img", "convert", "-f", "raw", "-O", "raw", "-t", "none", "-T", "none",
        "-W", "-m", "8", source.device, f"{out}/image",
    ]


def fio_base(engine: str) -> list[str]:
    return [
        "fio", "--name=limit", "--direct=1", "--bs=1M", "--iodepth=8",
        f"--ioengine={engine}", "--output-format=json",
    ]


def fio_read(engine: str) -> Callable[[Source, Path], list[str]]:
    return lambda source, out: [
        *fio_base(engine), "--rw=read", "--readonly",
        f"--filename={source.device}", f"--size={source.device_bytes}",
    ]


def fio_write(engine: str) -> Callable[[Source, Path], list[str]]:
    return lambda source, out: [
        *fio_base(engine), "--rw=write",
        f"--filename={out}/limit", f"--size={source.device_bytes}",
    ]


def fio_both(engine: str) -> Callable[[Source, Path], list[str]]:
    """Both at the same time: some devices have one limit for what they read and write together."""
    return lambda source, out: [
        *fio_base(engine)[:1], *fio_base(engine)[2:], f"--size={source.device_bytes}",
        "--name=read", "--rw=read", f"--filename={source.device}",
        "--name=write", "--rw=write", f"--filename={out}/limit",
    ]


def fio_engine(scratch: Path) -> str:
    """io_uring, or libaio where the kernel or fio has no io_uring."""
    if missing("fio"):
        return "libaio"
    for engine in ("io_uring", "libaio"):
        trial = [*fio_base(engine), "--rw=write", f"--filename={scratch}/fio-trial", "--size=1M"]
        done = subprocess.run(trial, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=scratch)
        if done.returncode == 0:
            return engine
    return "psync"


def fio_seconds(output: Path) -> float:
    """The time fio moved data: its start and its reporting take half a second more."""
    # A warning may stand before the JSON.
    text = output.read_text()
    jobs = json.loads(text[text.index("{"):])["jobs"]
    return max(job[way]["runtime"] for job in jobs for way in ("read", "write")) / 1000
