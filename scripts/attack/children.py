"""Processes that use the mount. The attacking process itself never touches it, so it never hangs."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

# A reader that finds something wrong ends with this status.
FOUND = 3


class Wrong(Exception):
    """What the mount must never do."""


@dataclass
class Allowed:
    """The errors that readers may see in a round, because of what is done to the source or the server."""

    errnos: set[int] = field(default_factory=set)

    def add(self, *errnos: int) -> None:
        self.errnos |= set(errnos)

    @property
    def bus_errors(self) -> bool:
        return errno.EIO in self.errnos or errno.ENOTCONN in self.errnos


@dataclass
class Child:
    pid: int
    name: str
    killed: bool = False
    stopped: bool = False

    def send(self, number: int) -> None:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass


def state(pid: int) -> str:
    """The state of a process by /proc: R, S, D, T, Z, or an empty string if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    except (OSError, IndexError):
        return ""


def where(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stack").read_text().replace("\n", " ")[:300]
    except OSError:
        return ""


class Children:
    def __init__(self, findings: Path, allowed: Allowed):
        self.findings, self.allowed = findings, allowed
        self.running: list[Child] = []

    def start(self, job: Callable, chance: random.Random, *arguments: object) -> Child:
        seed = chance.random()
        pid = os.fork()
        if pid == 0:
            self._run(job, random.Random(seed), arguments)
        child = Child(pid, job.__name__)
        self.running.append(child)
        return child

    def _run(self, job: Callable, chance: random.Random, arguments: tuple) -> None:
        status = 0
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            job(chance, *arguments)
        except OSError as e:
            if e.errno not in self.allowed.errnos:
                status = self._found(f"{job.__name__}: {e}: {traceback.extract_tb(e.__traceback__)[-1]}")
        except Wrong as wrong:
            status = self._found(f"{job.__name__}: {wrong}")
        except BaseException:
            status = self._found(f"{job.__name__}: {traceback.format_exc()}")
        finally:
            sys.stdout.flush()
            os._exit(status)

    def _found(self, said: str) -> int:
        with open(self.findings, "a") as out:
            out.write(said + "\n")
        return FOUND

    def reap(self) -> list[str]:
        """Collects those that ended, and returns what is wrong with how they ended."""
        problems = []
        for child in list(self.running):
            try:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = child.pid, 0
            if not pid:
                continue
            self.running.remove(child)
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
            if number == signal.SIGBUS and self.allowed.bus_errors:
                continue
            if number is not None and not child.killed:
                problems.append(f"{child.name} ended by {signal.Signals(number).name}")
        return problems

    def end(self, seconds: float) -> list[str]:
        """Kills all and waits for them. One that does not end is a problem."""
        problems = []
        for child in self.running:
            child.killed = True
            child.send(signal.SIGKILL)
        wait_until(lambda: not (problems.extend(self.reap()) or self.running), seconds)
        for child in self.running:
            problems.append(f"{child.name} {child.pid} does not end: {state(child.pid)} {where(child.pid)}")
        return problems


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    """Counts its own steps: whoever stops this program for a while takes nothing from the limit."""
    for _ in range(int(seconds * 100)):
        if holds():
            return True
        time.sleep(0.01)
    return holds()


def bounded(words: list, seconds: float) -> tuple[int | None, str]:
    """Runs a command. Returns its status, or None if it takes too long, and its messages."""
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        if not wait_until(lambda: child.poll() is not None, seconds):
            child.kill()
            wait_until(lambda: child.poll() is not None, 1)
            return None, ""
        said.seek(0)
        return child.returncode, said.read().strip()
