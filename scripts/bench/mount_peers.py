"""Who mounts, from which form of image, and with which words."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import machine
import mount_install

ALL = ["ours", "ours-direct_io", "ext4", "erofs", "squashfuse", "erofsfuse", "ratarmount",
       "fuse-archive", "archivemount"]


@dataclass
class Peer:
    key: str
    label: str
    # ours; fuse: a peer; kernel: no server, the limit.
    kind: str
    form: str
    # Called with the image and the mount point.
    mount: Callable[[Path, Path], list[str]]
    # Where it has a command of its own; else umount.
    unmount: Callable[[Path], list[str]] | None = None
    version: str | None = None


def choose(names: list[str], lbpayload: Path, variants: list[str], install: bool) -> tuple[list[Peer], list[str]]:
    """Those that can run here, and a line about each that can't."""
    able, skipped = [], []
    for name in names:
        try:
            able += MAKERS[name](lbpayload, install)
            if name == "ours":
                able += [ours(lbpayload, extra) for extra in variants]
        except mount_install.Unavailable as reason:
            skipped.append(f"{name}: {reason}")
    return able, skipped


def ours(binary: Path, extra: str = "") -> Peer:
    def mount(image: Path, point: Path) -> list[str]:
        return [str(binary), "mount", *shlex.split(extra), str(image), str(point)]

    if not binary.exists():
        raise mount_install.Unavailable(f"{binary} is not there: cargo build --release")
    if machine.first_line(binary, "mount", "--help") is None:
        raise mount_install.Unavailable(f"{binary} has no mount command")
    return Peer(
        " ".join(["ours", *shlex.split(extra)]), "lbpayload" + (f" {extra}" if extra else ""),
        "ours", "payload", mount, lambda point: [str(binary), "unmount", str(point)],
        machine.first_line(binary, "--version"),
    )


def direct_io(binary: Path, _install: bool) -> list[Peer]:
    peer = ours(binary, "-o direct_io")
    peer.key = "ours-direct_io"
    return [peer]


def kernel(form: str) -> Callable[[Path, bool], list[Peer]]:
    def make(_binary: Path, install: bool) -> list[Peer]:
        mount_install.kernel_has(form)
        if form == "erofs":
            mount_install.tool("mkfs.erofs", install)
        # -o loop: mount makes the loop device and the kernel drops it with the mount.
        return [Peer(
            form, f"kernel {form}, loop", "kernel", form,
            lambda image, point: ["mount", "-t", form, "-o", "ro,loop", str(image), str(point)],
        )]

    return make


def server(key: str, form: str, *words: str, program: str | None = None,
           maker: str | None = None) -> Callable[[Path, bool], list[Peer]]:
    """A peer called as PROGRAM WORDS IMAGE POINT."""

    def make(_binary: Path, install: bool) -> list[Peer]:
        path = mount_install.tool(program or key, install)
        if maker:
            mount_install.tool(maker, install)
        return [Peer(
            key, program or key, "fuse", form,
            lambda image, point: [str(path), *words, str(image), str(point)],
            version=mount_install.version(program or key, path),
        )]

    return make


MAKERS = {
    "ours": lambda binary, _install: [ours(binary)],
    "ours-direct_io": direct_io,
    "ext4": kernel("ext4"),
    "erofs": kernel("erofs"),
    "squashfuse": server("squashfuse", "squashfs", program="squashfuse_ll", maker="mksquashfs"),
    "erofsfuse": server("erofsfuse", "erofs", maker="mkfs.erofs"),
    "ratarmount": server("ratarmount", "tar"),
    "fuse-archive": server("fuse-archive", "tar"),
    "archivemount": server("archivemount", "tar", "-o", "readonly"),
}
