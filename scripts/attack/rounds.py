"""One round: a mount, processes that use it, what is done to them, to the server and to the source, and
what must be true afterwards."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import readers
import sources
from children import Allowed, Child, Children, bounded, wait_until
from image import Content
from server import Server

# How long a reader may take to end after it was killed, with a source that answers again.
END_SECONDS = 20


class Round:
    def __init__(self, chance: random.Random, program: Path, bases: tuple[Path, Path], content: Content,
                 master: Path, dense: int):
        self.chance, self.program, self.content = chance, program, content
        disk, memory = bases
        self.base = disk
        self.point = disk / "mnt"
        self.point.mkdir(exist_ok=True)
        self.findings = disk / "findings"
        self.findings.write_text("")
        self.log = disk / "log"
        self.source = sources.choose(chance, disk, memory, master, dense)
        self.server = Server(chance, program, self.source.path, self.point, self.log)
        self.allowed = Allowed()
        self.children = Children(self.findings, self.allowed)
        self.problems: list[str] = []
        self.done: list[str] = []
        # Until when something is stopped.
        self.continues: list[tuple[float, object]] = []
        self.binds: list[Path] = []
        self.kills_server = chance.random() < 0.12 or self.server.group is not None
        self.detaches = chance.random() < 0.15
        self.hurts_source = chance.random() < 0.5 and self.source.kind in ("file", "nbd")
        if self.kills_server:
            # The mount of a server that is gone can be unmounted while it is used.
            self.allowed.add(errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENOMEM, errno.ENOENT, errno.ENOTDIR)
        if self.detaches:
            self.allowed.add(errno.ENOENT, errno.ENOTDIR, errno.ENODATA, errno.EOPNOTSUPP, errno.ESTALE,
                             errno.ECANCELED)
        if self.hurts_source:
            self.allowed.add(errno.EIO)
        if self.server.files:
            # A checksum opens nothing, but a thread of the server may look at /proc.
            self.allowed.add(errno.EAGAIN)

    def run(self) -> list[str]:
        try:
            problem = self.server.start()
            if problem:
                self.problems.append(problem)
            elif self.server.pid is not None:
                self._attack()
                self._afterwards()
        finally:
            self._clear_away()
        found = self.findings.read_text().splitlines()
        if self.detaches or self.kills_server:
            # After that, the empty directory below the mount is seen.
            found = [line for line in found if "0 names instead of" not in line and "other files" not in line]
        return self.problems + found

    def description(self) -> str:
        options = ",".join(self.server.options)
        limits = f" files={self.server.files}" * bool(self.server.files) + " memory limit" * bool(self.server.group)
        return f"{self.source.kind} {options}{limits}: {' '.join(self.done)}"

    def _start_child(self) -> None:
        job = self.chance.choice(readers.ALL)
        self.children.start(job, self.chance, self.point, self.content)

    def _attack(self) -> None:
        for _ in range(self.chance.randrange(2, 9)):
            self._start_child()
        end = time.monotonic() + self.chance.uniform(0.5, 3)
        while time.monotonic() < end:
            time.sleep(self.chance.uniform(0, 0.15))
            for at, resume in list(self.continues):
                if time.monotonic() >= at:
                    self.continues.remove((at, resume))
                    resume()
            self.problems += self.children.reap() + self.server.look()
            attack = self.chance.choice(self._attacks())
            self.done.append(attack.__name__.strip("_"))
            attack()
        for _, resume in self.continues:
            resume()
        if hasattr(self.source, "mend") and self.hurts_source:
            self.source.mend()

    def _attacks(self) -> list:
        attacks = [self._kill, self._kill, self._kill, self._start_child, self._start_child, self._stop,
                   self._stop_server, self._bind, self._namespace, self._remount, self._drop_caches, self._unmount_busy]
        if self.kills_server:
            attacks += [self._kill_server]
        if self.detaches:
            attacks += [self._detach]
        if self.source.kind == "nbd":
            attacks += [self._pause_source] * 3
            if self.hurts_source:
                attacks += [self.source.fail, self.source.mend]
        if self.source.kind == "file":
            attacks += [self.source.replace]
            if self.hurts_source:
                attacks = [a for a in attacks if a != self.source.replace]
                attacks += [self._cut, self._cut, self.source.mend]
        return attacks

    # What is done.

    def _kill(self) -> None:
        if self.children.running:
            child = self.chance.choice(self.children.running)
            child.killed = True
            child.send(signal.SIGKILL)

    def _stop(self) -> None:
        if self.children.running:
            child = self.chance.choice(self.children.running)
            child.send(signal.SIGSTOP)
            self._later(lambda: child.send(signal.SIGCONT))

    def _later(self, resume) -> None:
        self.continues.append((time.monotonic() + self.chance.uniform(0, 0.7), resume))

    def _stop_server(self) -> None:
        self.server.send(signal.SIGSTOP)
        self._later(lambda: self.server.send(signal.SIGCONT))

    def _kill_server(self) -> None:
        self.server.send(signal.SIGKILL)

    def _pause_source(self) -> None:
        self.source.pause()
        self._later(self.source.resume)

    def _cut(self) -> None:
        self.source.cut(self.chance)

    def _bind(self) -> None:
        other = self.base / f"bind-{len(self.binds)}"
        other.mkdir(exist_ok=True)
        done = self._bounded(["mount", "--bind", str(self.point), str(other)])
        if done == 0:
            self.binds.append(other)
            self.children.start(readers.reader, self.chance, other, self.content)

    def _namespace(self) -> None:
        """A container, which has a copy of the mount."""
        pid = os.fork()
        if pid == 0:
            try:
                os.execvp("unshare", ["unshare", "-m", "--propagation", "private", "sleep", "1000"])
            finally:
                os._exit(1)
        self.children.running.append(Child(pid, "container"))

    def _remount(self) -> None:
        self._bounded(["mount", "-o", "remount,ro", str(self.point)])

    def _drop_caches(self) -> None:
        def dropper(_chance: random.Random) -> None:
            Path("/proc/sys/vm/drop_caches").write_text("3")
        self.children.start(dropper, self.chance)

    def _unmount_busy(self) -> None:
        """It may succeed or not, but it must end."""
        if not self.detaches:
            holder = self.children.start(readers.opener, self.chance, self.point, self.content)
            opened = Path(f"/proc/{holder.pid}/fd/20")
            # The mount stays, because this one has it open.
            if not wait_until(lambda: self._leads_here(opened), 2):
                return
            self._bounded([str(self.program), "unmount", "--timeout", "1", str(self.point)])
        else:
            self._bounded([str(self.program), "unmount", "--timeout", "1", str(self.point)])

    def _leads_here(self, link: Path) -> bool:
        try:
            return os.readlink(link).startswith(str(self.point))
        except OSError:
            return False

    def _detach(self) -> None:
        self._bounded(self.chance.choice([
            ["umount", "-l", str(self.point)], [str(self.program), "unmount", "--lazy", str(self.point)],
        ]))

    def _bounded(self, words: list[str]) -> int:
        """A command that must not hang, unless the server is stopped."""
        for _, resume in self.continues:
            resume()
        self.continues.clear()
        status, _ = bounded(words, 30)
        if status is None:
            self.problems.append(f"`{' '.join(words)}` takes more than 30 s")
        return -1 if status is None else status

    # What must be true afterwards.

    def _afterwards(self) -> None:
        self.problems += self.children.end(END_SECONDS)
        for bind in self.binds:
            if self._bounded(["umount", str(bind)]):
                self.problems.append(f"{bind} cannot be unmounted")
        self.problems += self.server.look()
        if self.server.runs() and self.server.is_mounted():
            self._is_healthy()
        elif not (self.kills_server or self.detaches):
            self.problems.append("the server has ended by itself")
        if self.server.is_mounted():
            problem = self.server.unmount(self.chance)
            self.problems += [problem] if problem else []
        elif not wait_until(lambda: not self.server.runs(), END_SECONDS):
            self.problems.append("the server runs though nothing of it is mounted")

    def _is_healthy(self) -> None:
        """All is as if nothing had happened."""
        self.allowed.errnos.clear()
        if self.server.group:
            self.allowed.add(errno.EIO, errno.ENOMEM, errno.ENOTCONN, errno.ECONNABORTED)
        check = self.children.start(readers.checker, self.chance, self.point, self.content)
        if not wait_until(lambda: not (self.problems.extend(self.children.reap()) or self.children.running), 60):
            self.problems.append(f"reading everything takes more than 60 s: {check}")
            self.problems += self.children.end(END_SECONDS)
        # Idle, it has given back what it needed.
        self.problems += self.server.look()

    def _clear_away(self) -> None:
        for _, resume in self.continues:
            resume()
        self.server.send(signal.SIGCONT)
        self.children.end(5)
        for bind in self.binds:
            subprocess.run(["umount", "-l", str(bind)], capture_output=True)
        self.server.clear_away()
        self.problems += self.source.close()
