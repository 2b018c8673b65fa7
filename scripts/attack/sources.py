"""What the mount reads from, and what can be done to it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

from children import wait_until
from image import MIB


class ImageFile:
    """A file of its own, on the disk or in memory."""

    kind = "file"

    def __init__(self, base: Path, master: Path, dense: int):
        self.path, self.master, self.dense = base / "image", master, dense
        subprocess.run(["cp", "--sparse=always", master, self.path], check=True)

    def cut(self, chance: random.Random) -> None:
        # At a page: the rest of a page that is cut is zeroed, while somebody may read it. Never
        # longer than it is: what is added would be zeros.
        size = min(self.path.stat().st_size, self.dense)
        os.truncate(self.path, chance.randrange(size + 1) & ~4095)

    def mend(self) -> None:
        """Appends what is missing, so that no byte is ever wrong."""
        with open(self.master, "rb") as whole, open(self.path, "r+b") as image:
            image.seek(0, os.SEEK_END)
            whole.seek(image.tell())
            while image.tell() < self.dense:
                image.write(whole.read(min(MIB, self.dense - image.tell())))
            image.truncate(self.master.stat().st_size)

    def replace(self) -> None:
        """Another image takes the name. The server keeps the one that it has open."""
        other = self.path.with_name("other")
        with open(other, "wb") as out:
            out.truncate(self.master.stat().st_size)
        other.rename(self.path)

    def close(self) -> list[str]:
        self.path.unlink(missing_ok=True)
        return []


class Loop:
    """A block device."""

    kind = "loop"

    def __init__(self, base: Path, master: Path, _dense: int):
        self.master = master
        done = subprocess.run(["losetup", "--show", "-rf", master], check=True, capture_output=True, text=True)
        self.path = Path(done.stdout.strip())

    def close(self) -> list[str]:
        subprocess.run(["losetup", "-d", self.path], check=False)
        # Detached only when nobody has it open any more.
        gone = wait_until(lambda: not Path(f"/sys/block/{self.path.name}/loop").exists(), 10)
        return [] if gone else [f"{self.path} is still in use"]


class Network:
    """A disk behind nbdkit, with delays, errors on demand, and pauses."""

    kind = "nbd"

    def __init__(self, base: Path, master: Path, _dense: int, delay: int):
        self.base, self.disk = base, base / "disk"
        self.disk.mkdir()
        self.errors, socket = base / "errors", base / "socket"
        self.server = subprocess.Popen([
            "nbdkit", "-f", "-U", socket, "--filter=error", "--filter=delay", "--threads", "32", "file", master,
            f"rdelay={delay}ms", "error=EIO", "error-pread-rate=30%", f"error-file={self.errors}",
        ], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if not wait_until(socket.exists, 20):
            raise RuntimeError("nbdkit does not start")
        self.path = self.disk / "image"
        self.path.touch()
        self.said = base / "nbdfuse"
        with open(self.said, "wb") as said:
            self.fuse = subprocess.Popen(["nbdfuse", "-C", "8", self.path, f"nbd+unix:///?socket={socket}"],
                                         stdin=subprocess.DEVNULL, stderr=said)
        mounted = wait_until(lambda: f" {self.path} " in Path("/proc/self/mountinfo").read_text(), 20)
        if not mounted:
            raise RuntimeError("nbdfuse does not start")

    def pause(self) -> None:
        self.server.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.server.send_signal(signal.SIGCONT)

    def fail(self) -> None:
        self.errors.touch()

    def mend(self) -> None:
        self.errors.unlink(missing_ok=True)

    def _unmounts(self) -> bool:
        return subprocess.run(["umount", self.path], stderr=subprocess.DEVNULL, check=False).returncode == 0

    def close(self) -> list[str]:
        self.resume()
        ended = self.fuse.poll()
        problems = [] if ended is None else [f"nbdfuse has ended ({ended}): {self.said.read_text().strip()}"]
        # The last thread of a server that was killed may still have it open.
        if not problems and not wait_until(self._unmounts, 10):
            problems.append("the source is still in use")
            subprocess.run(["umount", "-l", self.path], check=False)
        self.server.terminate()
        for process in (self.server, self.fuse):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.disk, ignore_errors=True)
        return problems


def choose(chance: random.Random, disk: Path, memory: Path, master: Path, dense: int):
    kind = chance.choice(["disk", "disk", "memory", "memory", "loop", "nbd", "nbd", "nbd"])
    if kind == "disk":
        return ImageFile(disk, master, dense)
    if kind == "memory":
        return ImageFile(memory, master, dense)
    if kind == "loop":
        return Loop(disk, master, dense)
    return Network(disk, master, dense, chance.choice([0, 1, 5, 20]))
