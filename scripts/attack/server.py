"""The program under attack: one mount, and what is known of its server."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
from pathlib import Path

from children import bounded, state, wait_until

MIB = 1 << 20
MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")


def device_of(point: Path) -> int | None:
    """The minor number of what is mounted there, without asking the server."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[4] == str(point):
            return int(words[2].split(":")[1])
    return None


def server_of(minor: int) -> int | None:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            for fd in os.listdir(entry / "fd"):
                if os.readlink(entry / "fd" / fd) == "/dev/fuse":
                    said = (entry / "fdinfo" / fd).read_text()
                    if re.search(rf"^fuse_connection:\s*{minor}$", said, re.M):
                        return int(entry.name)
        except OSError:
            continue
    return None


class Server:
    def __init__(self, chance: random.Random, program: Path, source: Path, point: Path, log: Path):
        self.program, self.point = program, point
        self.max_threads = chance.choice([1, 2, 16, 16, 64])
        self.options = [f"max_threads={self.max_threads}", f"log={log}"]
        for option, likely in [("direct_io", 0.25), ("allow_other", 0.3), ("nolistxattr", 0.2), ("debug", 0.05)]:
            if chance.random() < likely:
                self.options.append(option)
        words = [str(program), "mount", "-q", "-o", ",".join(self.options)]
        if chance.random() < 0.3:
            words.append(f"--direct={chance.choice(['auto', 'always'])}")
        words += [str(source), str(point)]
        self.files = chance.choice([None, None, None, None, None, 8, 12, 24, 40])
        if self.files:
            words = ["prlimit", f"--nofile={self.files}", *words]
        self.group = None
        if chance.random() < 0.15 and (MEMORY_GROUPS / "memory.limit_in_bytes").exists():
            self.group = MEMORY_GROUPS / f"lbpayload-attack-{os.getpid()}"
            self.group.mkdir(exist_ok=True)
            limit = chance.choice([6, 16, 32]) * MIB
            (self.group / "memory.limit_in_bytes").write_text(str(limit))
            words = ["sh", "-c", f'echo $$ > {self.group}/cgroup.procs; exec "$@"', "sh", *words]
        self.words = words
        self.pid: int | None = None
        self.minor: int | None = None
        self.most = {"rss": 0, "fds": 0, "threads": 0}

    def start(self) -> str | None:
        """Mounts. Returns a problem; a clear refusal for lack of files or memory is none."""
        status, said = bounded(self.words, 60)
        if status is None:
            return "mounting takes more than 60 s"
        self.minor = device_of(self.point)
        if status:
            if self.minor is not None:
                return "mounting failed, but something is mounted"
            if self.group or (self.files and "error:" in said):
                return None
            return f"mounting failed: {said}"
        if self.minor is None:
            return "it says that it is mounted, but it is not"
        self.pid = server_of(self.minor)
        if self.pid is None and not self.group:
            return "no process serves it"
        return None

    def is_mounted(self) -> bool:
        return device_of(self.point) is not None

    def runs(self) -> bool:
        if self.pid is None:
            return False
        try:
            # It is our child since its own parent has ended.
            os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            pass
        return state(self.pid) not in ("", "Z")

    def send(self, number: int) -> None:
        if self.pid is not None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass

    def look(self) -> list[str]:
        """Notes what the server uses, and returns what is too much."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
            fds = len(os.listdir(f"/proc/{self.pid}/fd"))
            rss = int(re.search(r"RssAnon:\s+(\d+)", status)[1]) >> 10
            threads = int(re.search(r"Threads:\s+(\d+)", status)[1])
        except (OSError, TypeError):
            return []
        for key, value in (("rss", rss), ("fds", fds), ("threads", threads)):
            self.most[key] = max(self.most[key], value)
        problems = []
        # A buffer for each read, two sums, the loops, and what a static program needs.
        if rss > 24 + 2 * self.max_threads:
            problems.append(f"the server uses {rss} MiB")
        if fds > 40:
            problems.append(f"the server has {fds} open files")
        if threads > self.max_threads + 14:
            problems.append(f"the server has {threads} threads")
        return problems

    def unmount(self, chance: random.Random) -> str | None:
        how = chance.choice(["unmount", "unmount --lazy", "umount", "umount -l", "SIGTERM", "SIGINT"])
        if not self.runs():
            how = chance.choice(["unmount", "unmount --lazy", "umount -l"])
        if how.startswith("SIG"):
            self.send(getattr(signal, how))
        else:
            words = [str(self.program), *how.split()] if how.startswith("unm") else how.split()
            status, said = bounded([*words, self.point], 30)
            if status is None:
                return f"`{how}` takes more than 30 s"
            if status:
                return f"`{how}` failed: {said}"
        if not wait_until(lambda: not self.is_mounted(), 10):
            return f"still mounted after `{how}`"
        if not wait_until(lambda: not self.runs(), 20):
            return f"the server still runs after `{how}`: {state(self.pid)}"
        connection = Path(f"/sys/fs/fuse/connections/{self.minor}")
        if not wait_until(lambda: not connection.exists(), 10):
            return f"the connection is still there after `{how}`"
        return None

    def clear_away(self) -> None:
        """Whatever happened, nothing is left for the next round."""
        self.send(signal.SIGCONT)
        for _ in range(20):
            if not self.is_mounted():
                break
            subprocess.run(["umount", "-l", str(self.point)], capture_output=True)
        if self.runs():
            self.send(signal.SIGKILL)
            wait_until(lambda: not self.runs(), 20)
        if self.group:
            wait_until(self._remove_group, 10)

    def _remove_group(self) -> bool:
        try:
            self.group.rmdir()
        except OSError:
            return False
        return True

