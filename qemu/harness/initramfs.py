"""An initramfs: a cpio archive of the "newc" form, written without cpio or root.

The kernel takes it unpacked, which is the quickest to make and to boot.
"""

from dataclasses import dataclass, field

_TYPES = {"file": 0o100000, "directory": 0o040000, "symlink": 0o120000, "char": 0o020000}


@dataclass
class Archive:
    """Entries in order; parents are made as needed."""

    _parts: list[bytes] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)
    _number: int = 0

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self._add(path, "file", mode, data)

    def program(self, path: str, data: bytes) -> None:
        self._add(path, "file", 0o755, data)

    def directory(self, path: str) -> None:
        if path not in self._seen:
            self._add(path, "directory", 0o755)

    def symlink(self, path: str, target: str) -> None:
        self._add(path, "symlink", 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int) -> None:
        self._add(path, "char", 0o600, device=(major, minor))

    def bytes(self) -> bytes:
        """The archive, ended."""
        trailer = _header(0, 0, 1, 0, (0, 0), "TRAILER!!!")
        return b"".join([*self._parts, trailer])

    def _add(self, path: str, kind: str, mode: int, data: bytes = b"", device=(0, 0)) -> None:
        parent = path.rpartition("/")[0]
        if parent:
            self.directory(parent)
        assert path not in self._seen, path
        self._seen.add(path)
        self._number += 1
        self._parts.append(_header(self._number, _TYPES[kind] | mode, 1, len(data), device, path))
        self._parts.append(data + bytes(-len(data) % 4))


def _header(number: int, mode: int, links: int, size: int, device: tuple[int, int], path: str) -> bytes:
    name = path.encode() + b"\0"
    # Inode, mode, uid, gid, links, time, size, device of the file, of the node, name, check.
    fields = [number, mode, 0, 0, links, 0, size, 0, 0, *device, len(name), 0]
    head = b"070701" + b"".join(b"%08x" % f for f in fields) + name
    return head + bytes(-len(head) % 4)
