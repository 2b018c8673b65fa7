"""One visit: mount an image, run one command below it, unmount. Seconds and bytes.

A mount is fresh for every visit and the caches are dropped before it, so whatever
is cached is what the visit itself has read.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import select
import subprocess
import threading
import time
from pathlib import Path

import measure
import mount_peers
import mount_rows
import places
from mount_images import Content
from places import BenchError

SAMPLE_SECONDS = 0.02
# How long a server may take to end after its unmount.
GOODBYE_SECONDS = 20
MIB = 1 << 20


class Over(Exception):
    """It took longer than it may."""


def run(words: list[str], limit: float, scratch: Path, heard: bool = False) -> tuple[float, str]:
    """The seconds a command took, and with `heard` its standard output.

    Files, not pipes: a server that it leaves behind would hold those open.
    """
    stdout = scratch / "stdout" if heard else Path("/dev/null")
    with open(stdout, "wb") as out, open(scratch / "stderr", "wb") as err:
        start = time.monotonic()
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                 cwd=scratch, start_new_session=True)
    end = os.pidfd_open(child.pid)
    try:
        # Popen.wait with a time limit sleeps up to 50 ms at a time; this wakes at once.
        done = select.poll()
        done.register(end, select.POLLIN)
        ended = done.poll(1000 * limit)
        seconds = time.monotonic() - start
    except BaseException:
        measure.kill_group(child)
        raise
    finally:
        os.close(end)
    if not ended:
        raise Running(child)
    if child.wait():
        said = (scratch / "stderr").read_text(errors="replace").strip().splitlines()
        raise BenchError(f"{' '.join(words[:3])} answered {child.returncode}: {said[-1] if said else 'no message'}")
    return seconds, stdout.read_text() if heard else ""


class Running(Over):
    """Over, and the command still runs: it can't be ended before its server answers or is gone."""

    def __init__(self, child: subprocess.Popen):
        super().__init__()
        self.child = child


# The server.


def adopt_orphans() -> None:
    """Servers in the background become our children, so that those that ended can be cleared
    away here: not every machine's first process does that, and 500 mounts add up."""
    pr_set_child_subreaper = 36
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def clear_away_orphans() -> None:
    """Only while no command of ours runs: it would take its status too."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def holders() -> dict[int, set[int | None]]:
    """Processes with an open /dev/fuse, and the minor number of the mount that each serves
    (None where the kernel doesn't say)."""
    found: dict[int, set[int | None]] = {}
    for directory in Path("/proc").glob("[0-9]*/fd"):
        try:
            for fd in os.listdir(directory):
                if os.readlink(directory / fd) == "/dev/fuse":
                    info = (directory.parent / "fdinfo" / fd).read_text()
                    said = re.search(r"^fuse_connection:\s*(\d+)", info, re.M)
                    found.setdefault(int(directory.parent.name), set()).add(int(said[1]) if said else None)
        except OSError:
            continue  # it ended while we looked
    return found


def mounted_minor(point: Path) -> int | None:
    """The minor number of the device that is mounted there. Not by stat, which asks the
    server, and a server may hang."""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        words = line.split()
        if words[4] == str(point):
            return int(words[2].split(":")[1])
    return None


def servers(point: Path, before: set[int]) -> list[int]:
    """Who serves the mount; by exclusion on a kernel that doesn't say."""
    minor = mounted_minor(point)
    return [
        pid for pid, minors in holders().items()
        if minor in minors or (None in minors and pid not in before)
    ]


def anonymous_memory(pids: list[int]) -> int:
    """RssAnon: without the mapped program and without page cache, which is the machine's."""
    total = 0
    for pid in pids:
        try:
            found = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
        except OSError:
            continue
        total += 1024 * int(found[1]) if found else 0
    return total


class Sampler(threading.Thread):
    """The largest anonymous memory of the servers while it runs."""

    def __init__(self, pids: list[int]):
        super().__init__(daemon=True)
        self.pids, self.peak, self.over = pids, 0, threading.Event()

    def look(self) -> None:
        self.peak = max(self.peak, anonymous_memory(self.pids))

    def run(self) -> None:
        while not self.over.wait(SAMPLE_SECONDS):
            self.look()

    def __enter__(self) -> Sampler:
        self.look()
        if self.pids:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        if self.pids:
            self.join()
        self.look()


# The mount.


class Mount:
    """Mounts on entering; on leaving the mount and its server are gone, whatever happened."""

    def __init__(self, peer: mount_peers.Peer, image: Path, point: Path, scratch: Path, limit: float):
        self.peer, self.image, self.point, self.scratch, self.limit = peer, image, point, scratch, limit
        self.pids: list[int] = []
        self.seconds = 0.0

    def __enter__(self) -> Mount:
        self.point.mkdir(exist_ok=True)
        self.before = set(holders())
        self.cpu = measure.processor()
        start = time.monotonic()
        try:
            run(self.peer.mount(self.image, self.point), self.limit, self.scratch)
            # Some return before they are mounted.
            while mounted_minor(self.point) is None:
                if time.monotonic() - start > self.limit:
                    raise Over
                time.sleep(0.0005)
            self.seconds = time.monotonic() - start
        except BaseException as error:
            self.leave(error)
            raise
        return self

    def find_servers(self) -> list[int]:
        """A walk through /proc: never within a time that counts."""
        if self.peer.kind != "kernel":
            self.pids = servers(self.point, self.before)
        return self.pids

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.leave(error)

    def leave(self, error: BaseException | None) -> None:
        if isinstance(error, Running):
            # A reader that waits for its server can only be ended with it.
            self.kill(self.find_servers())
            measure.kill_group(error.child)
        complaint = self.polite_unmount() if error is None and self.peer.unmount else None
        for point, _ in places.mounts_below(self.point):
            places.unmount(point)
        complaint = self.goodbye() or complaint
        clear_away_orphans()
        if complaint and error is None:
            raise BenchError(complaint)

    def polite_unmount(self) -> str | None:
        """In the peer's own words; what went wrong, or None."""
        try:
            run(self.peer.unmount(self.point), GOODBYE_SECONDS, self.scratch)
        except Running as late:
            measure.kill_group(late.child)
            return f"{self.peer.label}: unmounting took over {GOODBYE_SECONDS} s"
        except BenchError as refused:
            return str(refused)
        if mounted_minor(self.point) is not None:
            return f"{self.peer.label}: still mounted after its unmount"
        return None

    def goodbye(self) -> str | None:
        end = time.monotonic() + GOODBYE_SECONDS
        while left := [pid for pid in self.pids if pid in holders()]:
            if time.monotonic() > end:
                self.kill(left)
                return f"{self.peer.label}: the server outlived its mount by {GOODBYE_SECONDS} s and was killed"
            time.sleep(0.02)
        return None

    @staticmethod
    def kill(pids: list[int]) -> None:
        for pid in pids:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass


# The visit.


def touch_memory(path: Path, size: int) -> None:
    """Fills the page cache from a file of nothing and drops it again: on a virtual machine
    memory that nobody used lately has to be fetched from the host first, ten times slower."""
    with open(path, "ab") as out:
        out.truncate(size)
    room = bytearray(MIB)
    with open(path, "rb", buffering=0) as data:
        while data.readinto(room):
            pass
    measure.drop_caches()


class Visitor:
    def __init__(self, root: Path, reader: Path, limit: float):
        self.root, self.reader, self.limit = root, reader, limit
        self.scratch = root / "scratch"
        self.scratch.mkdir(exist_ok=True)
        adopt_orphans()

    def mount(self, peer: mount_peers.Peer, image: Path) -> Mount:
        return Mount(peer, image, self.root / "mnt", self.scratch, self.limit)

    def warm(self, peer: mount_peers.Peer, row: mount_rows.Row, image: Path, what: Content) -> None:
        """The same, on an image of next to nothing: loads every program and module."""
        with self.mount(peer, image) as mounted:
            run(row.command(self.reader, mounted.point, what), self.limit, self.scratch)

    def measure(self, peer: mount_peers.Peer, row: mount_rows.Row, image: Path, what: Content) -> dict:
        with self.mount(peer, image) as mounted:
            since_mount = row.figure is mount_rows.since_mounting
            # Where the mount itself counts, nothing may come between it and the command.
            pids = [] if since_mount else mounted.find_servers()
            command = row.command(self.reader, mounted.point, what)
            if row.again:
                run(command, self.limit, self.scratch)
            before = mounted.cpu if since_mount else measure.processor()
            with Sampler(pids) as sampler:
                seconds, said = run(command, self.limit, self.scratch, heard=command[0] == str(self.reader))
            after = measure.processor()
            if since_mount:
                sampler.pids = mounted.find_servers()
                sampler.look()
            figure = row.figure(mounted.seconds, seconds, json.loads(said or "{}"))
        if since_mount and figure > self.limit:
            raise Over
        return {
            "figure": figure, "mounting": mounted.seconds, "memory": sampler.peak,
            "machine_cpu": after["busy"] - before["busy"], "steal": after["steal"] - before["steal"],
        }
