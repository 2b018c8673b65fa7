"""The raw runs as Markdown tables. Says what was measured and judges nothing."""

from __future__ import annotations

from statistics import median

import figures
from figures import seconds

MIB = 1 << 20

READING = """\
- **wall**: seconds until the data is on stable storage, `syncfs` of the destination
  included, median (minimum to maximum). lbpayload syncs by itself, and gets
  the same `syncfs` in addition. For fio, it is the time in which fio moved data, plus `syncfs`.
- **MB/s**: the payload's bytes (for peers that copy the whole device: the device's) by the
  median.
- **x ours**: the peer's wall time divided by that of `lbpayload`. First the ratio of the
  medians, then in parentheses the range of the ratios within each round. Above 1: the peer
  takes longer.
- **CPU**: user and system seconds of the command and its children. **machine CPU**: busy
  seconds of the whole machine in this time (`/proc/stat`), with kernel threads and all other
  processes. fio needs about 0.2 s of it to start.
- **peak memory**: the largest resident set of any one process of the command.
- **steal**: the most time that the hypervisor took away in one run. **load**: the largest load
  average (one minute) before a run; `-` in runs that did not note it.
- **page cache**: largest growth seen during the run, `Cached` + `Buffers` - `Shmem`,
  sampled every 20 ms; files on tmpfs are not counted. Loaded libraries are, but they
  are small.
- Every peer runs once in each round, in an order that rotates from round to round. Before
  each run, the destination is emptied and the page cache is dropped. (Small files on the
  disk's file system are moved away instead of removed: ext4 does not reuse inodes that were
  removed in the last minute, which would slow down the next peer.) After the runs of the
  first round, every byte of the result is compared.
- `tar` and `cp -r` read the same files from a tar and from a read-only ext4 on loop devices
  beside the payload's. `dd`, `nbdcopy` and `qemu-img` write one file with the whole device in
  it, so they create no other files.
"""


def values(table: dict, peer: str, what: str) -> list[float]:
    return [run[what] for run in table["runs"] if run["peer"] == peer]


def middle(table: dict, peer: str, what: str) -> float | None:
    found = values(table, peer, what)
    return median(found) if found else None


def order(table: dict) -> list[str]:
    """The peers that have runs, as they were asked for."""
    return [peer for peer in table["peers"] if values(table, peer, "wall")]


def ratio(table: dict, peer: str, base: str = "ours") -> str:
    """Peer against base: by the medians, and the range over the rounds."""
    if not values(table, base, "wall"):
        return "-"
    if peer == base:
        return "1"
    by_median = middle(table, peer, "wall") / middle(table, base, "wall")
    bases = {run["round"]: run["wall"] for run in table["runs"] if run["peer"] == base}
    rounds = [
        run["wall"] / bases[run["round"]]
        for run in table["runs"]
        if run["peer"] == peer and run["round"] in bases
    ]
    if len(rounds) < 2:
        return f"{by_median:.2f}"
    return f"{by_median:.2f} ({min(rounds):.2f} to {max(rounds):.2f})"


def moved(table: dict, peer: str) -> int:
    files = table["peers"][peer]["kind"] == "files"
    return table["payload_bytes"] if files else table["device_bytes"]


def row(table: dict, peer: str) -> str:
    wall = middle(table, peer, "wall")
    rate = f"{moved(table, peer) / wall / 1e6:.0f}" if wall else "-"
    cells = [
        table["peers"][peer]["label"],
        figures.spread(values(table, peer, "wall")),
        rate,
        ratio(table, peer),
        seconds(middle(table, peer, "cpu")),
        seconds(middle(table, peer, "machine_cpu")),
        f"{middle(table, peer, 'peak_rss') / MIB:.1f}",
        f"{middle(table, peer, 'page_cache') / MIB:.0f}",
        f"{max(values(table, peer, 'steal')):.2f}",
        loads(table, peer),
    ]
    return "| " + " | ".join(cells) + " |"


def loads(table: dict, peer: str) -> str:
    """The largest load average before a run. Older runs did not note it."""
    found = [run["load"] for run in table["runs"] if run["peer"] == peer and "load" in run]
    return f"{max(found):.1f}" if found else "-"


def heading(table: dict) -> str:
    where = {
        "tmpfs": "to tmpfs",
        "dir": "to the disk's filesystem",
    }.get(table["fs"], f"to {table['fs']} on a loop device")
    return f"{table['payload']}, {table['place']}, {where}"


def against_dd(table: dict) -> list[str]:
    """Ours against dd by bytes a second: dd also copies the padding after the payload."""
    dd = middle(table, "dd", "wall")
    if not dd:
        return []
    lines = []
    for peer in order(table):
        if peer.startswith("ours"):
            rate = table["payload_bytes"] / middle(table, peer, "wall")
            by_bytes = rate / (table["device_bytes"] / dd)
            lines.append(f"{table['peers'][peer]['label']} against dd by bytes a second: {by_bytes:.2f} x.")
    return lines


LIMITS = {"fio-read": "fio read", "fio-write": "fio write", "fio-both": "fio read and write together"}


def limit(table: dict) -> tuple[str, float] | None:
    """The slowest of what the devices can do, and its seconds."""
    found = {name: wall for key, name in LIMITS.items() if (wall := middle(table, key, "wall"))}
    name = max(found, key=found.get, default=None)
    return (name, found[name]) if name else None


def against_limits(table: dict) -> list[str]:
    ours, most = middle(table, "ours", "wall"), limit(table)
    if not (ours and most):
        return []
    return [f"lbpayload takes {ours / most[1]:.2f} x of the slowest limit ({most[0]}, {seconds(most[1])} s)."]


def system_calls(table: dict) -> list[str]:
    if not table.get("system_calls"):
        return []
    lines = [
        "", "System calls, from a separate run under strace (what an io_uring does without a call is not seen):", "",
        "| | calls | a file | most of them |", "| --- | ---: | ---: | --- |",
    ]
    for peer, counts in table["system_calls"].items():
        total = sum(counts.values())
        most = sorted(counts.items(), key=lambda item: -item[1])[:4]
        lines.append(
            f"| {table['peers'][peer]['label']} | {total} | {total / table['files']:.1f} | "
            + ", ".join(f"{name} {count}" for name, count in most) + " |"
        )
    return lines


def section(table: dict) -> list[str]:
    lines = [
        f"## {heading(table)}", "",
        f"{table['title']}{figures.scaled(table)}. Source device: {table['device_bytes'] / 1e6:.0f} MB, "
        f"{table['sector']} byte sectors, loop direct I/O {'on' if table['loop_direct'] else 'off'}. "
        f"{table['rounds']} round{'s' * (table['rounds'] > 1)}. Before the start, other processes used {table['background']:.0%} of the CPU time. "
        f"The hypervisor took away at most {max((r['steal'] for r in table['runs']), default=0):.2f} s in a run (steal time).", "",
        "| | wall, s | MB/s | x ours | CPU, s | machine CPU, s | peak memory, MiB | page cache, MiB "
        "| steal, s | load |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [row(table, peer) for peer in order(table)]
    notes = against_dd(table) + against_limits(table)
    lines += [""] + [f"- {note}" for note in notes]
    lines += [f"- Not run: {reason}." for reason in table["skipped"]]
    lines += [f"- **Failed**: {reason}." for reason in table["failed"]]
    return lines + system_calls(table) + [""]


# What a reader would use instead; whoever copies the device makes no files.
INSTEAD = ["reference", "tar", "cp", "dd", "qemu-img"]
# Whose processor time stands beside ours.
COST = ["ours", "dd", "qemu-img"]


def cpu_a_gib(table: dict, peer: str) -> str:
    """Busy seconds of the whole machine for a GiB that is moved."""
    cpu = middle(table, peer, "machine_cpu")
    return f"{cpu / (moved(table, peer) / (1 << 30)):.2f}" if cpu is not None else "-"


def answer(tables: list[dict]) -> list[str]:
    """How fast it is, against the limit and against what one would use instead."""
    # The widest comparisons; those on other file systems are behind.
    wide = [table for table in tables if table["fs"] in ("tmpfs", "dir")] or tables
    peers = [peer for peer in INSTEAD if any(values(table, peer, "wall") for table in wide)]
    labels = [next(table["peers"][peer]["label"] for table in wide if peer in table["peers"]) for peer in peers]
    rows = []
    for table in wide:
        if ours := middle(table, "ours", "wall"):
            times = [middle(table, peer, "wall") for peer in peers]
            most = limit(table)
            rows.append([f"{heading(table)}: {table['title']}", f"{seconds(ours)} s",
                         f"{ours / most[1]:.2f} x" if most else "-"]
                        + [f"{time / ours:.2f} x" if time else "-" for time in times]
                        + [" / ".join(cpu_a_gib(table, peer) for peer in COST)])
    if not rows:
        return []
    return [
        "Seconds until every file is on stable storage; how many times the limit that is (the slowest of fio's reads, "
        "writes, and both together); and how many times as long the others take (above 1: lbpayload is faster). "
        "`dd` and `qemu-img` copy the device into one file and do not extract the files in it. The last column is the "
        "whole machine's CPU seconds a GiB.", "",
        *figures.grid(["from and to", "lbpayload", "of the limit", *labels, "CPU: lbpayload / dd / qemu-img"], rows), "",
    ]


def markdown(runs: list[dict]) -> str:
    tables = [table for run in runs for table in run["tables"]]
    lines = ["# Import, compared", "", *answer(tables), "![The medians as bars](import.svg)", ""]
    for table in tables:
        lines += section(table)
    lines += ["## How to read the tables", "", READING, *figures.conditions(runs)]
    return "\n".join(lines).rstrip() + "\n"
