"""One run: what it took of time, processor, memory and page cache."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import peers
from places import BenchError, Source

SAMPLE_SECONDS = 0.02
JIFFIES = os.sysconf("SC_CLK_TCK")


def processor() -> dict[str, float]:
    """Seconds since boot that all processors were busy, and the time that the hypervisor took away (steal time).

    Interrupts and kernel threads (a loop device's workers, write-back) count.
    """
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, words[1:9])
    return {"busy": (user + nice + system + irq + softirq) / JIFFIES, "steal": steal / JIFFIES}


def page_cache() -> int:
    """Bytes of page cache without what tmpfs stores.

    Buffers is the part that belongs to block devices: a buffered read of a
    loop device shows there and nowhere else.
    """
    fields = dict(re.findall(r"^(\w+): +(\d+) kB", Path("/proc/meminfo").read_text(), re.M))
    return 1024 * (int(fields["Cached"]) + int(fields["Buffers"]) - int(fields["Shmem"]))


def drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def warm(peer: peers.Peer) -> None:
    for command in peer.warm_commands():
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_group(child: subprocess.Popen) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def watch(child: subprocess.Popen) -> int:
    """Waits for the child; returns the largest page cache it saw."""
    peak = page_cache()
    try:
        while child.poll() is None:
            time.sleep(SAMPLE_SECONDS)
            peak = max(peak, page_cache())
    except BaseException:
        # A group of its own keeps Ctrl-C from us both; so it is ours to end.
        kill_group(child)
        raise
    return peak


def start(runner: Path, scratch: Path, sync_dir: Path, peer: peers.Peer, command: list[str]) -> subprocess.Popen:
    # Only fio's report is kept: a name a line for 50,000 files would be written to disk with the rest.
    stdout = scratch / "stdout" if peer.kind == "limit" else "/dev/null"
    with open(stdout, "wb") as out, open(scratch / "stderr", "wb") as err:
        return subprocess.Popen(
            [str(runner), str(scratch / "report"), str(sync_dir), *command],
            stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=scratch, start_new_session=True,
        )


def failure(peer: peers.Peer, status: int, scratch: Path) -> BenchError:
    said = (scratch / "stderr").read_text(errors="replace").strip().splitlines()
    return BenchError(f"{peer.label} answered {status}: {said[-1] if said else 'no message'}")


def run(peer: peers.Peer, source: Source, out: Path, runner: Path, scratch: Path) -> dict:
    """Runs a peer once into the empty directory `out`. Seconds and bytes."""
    command = peer.command(source, out)
    drop_caches()
    warm(peer)
    load = os.getloadavg()[0]
    cache, cpu = page_cache(), processor()
    child = start(runner, scratch, out, peer, command)
    peak = watch(child)
    after = processor()
    if child.returncode:
        raise failure(peer, child.returncode, scratch)
    report = json.loads((scratch / "report").read_text())
    if report["status"]:
        raise failure(peer, report["status"], scratch)
    wall = report["wall"]
    if peer.kind == "limit":
        wall = peers.fio_seconds(scratch / "stdout") + report["sync"]
    return {
        "wall": wall,
        "process_wall": report["wall"],
        "sync": report["sync"],
        "cpu": report["user"] + report["system"],
        "machine_cpu": after["busy"] - cpu["busy"],
        "steal": after["steal"] - cpu["steal"],
        "load": load,
        "peak_rss": report["peak_rss"],
        "page_cache": max(0, peak - cache),
    }


def system_calls(peer: peers.Peer, source: Source, out: Path, scratch: Path) -> dict[str, int]:
    """Counts by name, from a run under strace that nothing else is taken from."""
    table = scratch / "strace"
    command = ["strace", "-f", "-c", "-o", str(table), *peer.command(source, out)]
    drop_caches()
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, cwd=scratch, start_new_session=True,
    )
    watch(child)
    return parse_strace(table.read_text())


def parse_strace(text: str) -> dict[str, int]:
    """The rows of `strace -c`: share, seconds, microseconds a call, calls[, errors], name."""
    counts = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) in (5, 6) and words[3].isdigit() and words[-1] != "total":
            counts[words[-1]] = int(words[3])
    return counts


def background_load(seconds: float = 1.0) -> float:
    """The share of the machine that others use while the bench does nothing."""
    os.sync()
    before = processor()["busy"]
    time.sleep(seconds)
    return (processor()["busy"] - before) / seconds / os.cpu_count()
