"""Debian's kernels, and their modules in the order in which they can be loaded."""

import lzma
import re
from functools import cache
from pathlib import Path

from . import debian
from .outcome import Failed

# What a case may ask for: the package, its architecture, the program's.
_KINDS = {
    # Small and quick to boot; virtio, NVMe, IDE and SCSI.
    "cloud": ("linux-image-cloud-amd64", "amd64", "x86_64"),
    "full": ("linux-image-amd64", "amd64", "x86_64"),
    # For processors without 64 bits, as live-bootstrap's machine is at that point.
    "686": ("linux-image-686", "i386", "i686"),
}

# Some modules name what they want by what it does.
_PROVIDERS = {
    "crc32c": "crc32c_generic",
    "xxhash64": "xxhash_generic",
    "sha256": "sha256_generic",
    "blake2b_256": "blake2b_generic",
}


class Kernel:
    """One kernel: its image to boot, its version, its modules, the program's architecture."""

    def __init__(self, kind: str):
        package, self.architecture, self.program = _KINDS[kind]
        files = debian.unpacked(package, self.architecture)
        self.image = next((files / "boot").glob("vmlinuz-*"))
        # /lib is a symlink to usr/lib in newer packages.
        tree = next(p for p in (files / "lib/modules", files / "usr/lib/modules") if p.is_dir())
        self.tree = next(tree.iterdir())
        self.version = self.tree.name
        paths = self.tree.rglob("*.ko*")
        self._modules = {_plain(path.name): path for path in paths}
        built_in = (self.tree / "modules.builtin").read_text().splitlines()
        self._built_in = {_plain(Path(line).name) for line in built_in}

    def modules(self, wanted: list[str]) -> dict[str, bytes]:
        """Name and bytes of the modules `wanted` and of what they need, in loading order."""
        ordered: dict[str, bytes] = {}
        for name in wanted:
            self._add(_plain(name), ordered, must=True)
        return ordered

    def _add(self, name: str, ordered: dict[str, bytes], must: bool) -> None:
        if name in ordered or name in self._built_in:
            return
        if name not in self._modules:
            if must:
                raise Failed(f"the kernel {self.version} has no module {name}")
            return
        data, needs, likes = _read(self._modules[name])
        for need in needs:
            self._add(need, ordered, must=True)
        for like in likes:
            like = like.removeprefix("crypto_")
            self._add(_PROVIDERS.get(like, like), ordered, must=False)
        ordered[name] = data


@cache
def kernel(kind: str) -> Kernel:
    """The kernel of that kind, fetched where it is not there yet."""
    return Kernel(kind)


def _plain(name: str) -> str:
    """Module names say - and _ alike; `.ko`, `.ko.xz` and the like fall away."""
    return name.split(".")[0].replace("-", "_")


@cache
def _read(path: Path) -> tuple[bytes, list[str], list[str]]:
    """The module's bytes, what it depends on, and what it wants loaded before it."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        data = lzma.decompress(data)
    # .modinfo is a row of NUL-ended `key=value`.
    info = re.findall(rb"(?<=\0)(depends|softdep)=([^\0]*)\0", data)
    needs = [n for key, value in info if key == b"depends" for n in value.decode().split(",") if n]
    likes = []
    for key, value in info:
        if key == b"softdep" and value.startswith(b"pre:"):
            likes += value.decode().removeprefix("pre:").split("post:")[0].split()
    return data, [_plain(n) for n in needs], [_plain(n) for n in likes]
