"""The raw runs of the mount bench as Markdown tables."""

from __future__ import annotations

from statistics import median

import figures
import mount_claims

MIB = 1 << 20

READING = """\
- Every figure is the median of the rounds. Each figure has its own mount, made after the
  caches of pages, inodes and names were dropped. Only **a second time** reads a file that was
  read just before. Images on tmpfs stay in memory: these rows show the cost of the servers,
  without a disk.
- Before each mount, the page cache is filled and dropped once, so that the guest already has
  the memory from its hypervisor. The same peer also mounts an image of a few files, so that
  its program is loaded.
- **ready**: from calling `mount` until it has returned and `ls` of one small file is back.
  **mount + ls**: the same, with `ls` of the directory.
- **sequential**, **2 readers**: whole files of 512 MiB, 1 MiB a read; two readers read two
  files. **random**: `pread` of 4 KiB at shuffled places of one such file, none twice, for 2 s
  or until all are read. Two jobs share the shuffled places. GB are 10^9 bytes.
- **find**: `find -type f -printf '%s\\n'`, which calls stat for each file. **small
  files**: opens, reads and closes each, by name, as `cat small-*` does.
- Kernel ext4 and erofs are mounted with `-o ro,loop`. squashfs and erofs images are not
  compressed. ratarmount has its index next to the tar, created before. archivemount is
  mounted with `-o readonly`. All others, lbpayload too, get only the options in their name.
- A run that takes longer than the limit is stopped, shown as **over**, and not tried again.
- **Server memory**: the largest anonymous memory (RssAnon) of the serving processes in any row,
  sampled every 20 ms: without the program's text and without page cache.
- **Machine CPU**: busy seconds of the whole machine (`/proc/stat`) while the row was measured,
  so kernel threads and the reader count. The clock ticks in 10 ms.
- Peers alternate: each row goes round all of them before the next row, in an order that
  rotates.
"""


def runs_of(table: dict, peer: str, row: str) -> list[dict]:
    return [run for run in table["runs"] if run["peer"] == peer and run["row"] == row]


def found(table: dict, peer: str, row: str, what: str = "figure") -> list[float]:
    """What was measured; nothing when it once was over the limit."""
    runs = runs_of(table, peer, row)
    return [] if any("over" in run for run in runs) else [run[what] for run in runs]


def middle(table: dict, peer: str, row: str) -> float | None:
    values = found(table, peer, row)
    return median(values) if values else None


def said(unit: str, value: float) -> str:
    if unit == "IOPS":
        return f"{value:.0f}" if value < 1000 else f"{value / 1000:.1f} k"
    return figures.seconds(value)


def cell(table: dict, peer: str, row: str) -> str:
    runs, value = runs_of(table, peer, row), middle(table, peer, row)
    if value is not None:
        return said(table["rows"][row]["unit"], value)
    return f"over {runs[-1]['over']:g} s" if runs else "-"


def spread_cell(table: dict, peer: str, row: str) -> str:
    values, unit = found(table, peer, row), table["rows"][row]["unit"]
    if len(values) < 2:
        return cell(table, peer, row)
    return f"{said(unit, min(values))} to {said(unit, max(values))}"


def ahead(table: dict, base: str, peer: str, row: str) -> float | None:
    """How many times as fast base is, by the medians. Above 1: base is ahead."""
    ours, theirs = middle(table, base, row), middle(table, peer, row)
    if not ours or not theirs:
        return None
    return ours / theirs if table["rows"][row]["more"] else theirs / ours


def ahead_cell(table: dict, base: str, peer: str, row: str) -> str:
    by_median = ahead(table, base, peer, row)
    if by_median is None:
        return cell(table, peer, row) if middle(table, peer, row) is None else "-"
    more = table["rows"][row]["more"]
    ours = {run["round"]: run["figure"] for run in runs_of(table, base, row)}
    rounds = [
        ours[run["round"]] / run["figure"] if more else run["figure"] / ours[run["round"]]
        for run in runs_of(table, peer, row) if run["round"] in ours
    ]
    if len(rounds) < 2:
        return f"{by_median:.2f}"
    return f"{by_median:.2f} ({min(rounds):.2f} to {max(rounds):.2f})"


def memory(table: dict, peer: str) -> str:
    if table["peers"][peer]["kind"] == "kernel":
        return "-"
    seen = [run["memory"] for run in table["runs"] if run["peer"] == peer and "memory" in run]
    return f"{max(seen) / MIB:.1f}" if seen else "-"


def cpu_cell(table: dict, peer: str, row: str) -> str:
    values = found(table, peer, row, "machine_cpu")
    return figures.seconds(median(values)) if values else "-"


def grid(table: dict, heads: list[str], peers: list[str], cells: list) -> list[str]:
    """`cells`: for each column a function of the peer."""
    rows = [[table["peers"][peer]["label"], *(column(peer) for column in cells)] for peer in peers]
    return figures.grid(["", *heads], rows)


def by_row(table: dict, function) -> list:
    return [lambda peer, row=row: function(table, peer, row) for row in table["rows"]]


def heads(table: dict, units: bool) -> list[str]:
    return [row["title"] + f", {row['unit']}" * units for row in table["rows"].values()]


def where(table: dict) -> str:
    return "on tmpfs" if table["place"] == "memory" else "on the disk"


def section(table: dict) -> list[str]:
    peers = [peer for peer in table["peers"] if any(run["peer"] == peer for run in table["runs"])]
    steal = max((run.get("steal", 0) for run in table["runs"]), default=0)
    lines = [
        f"## Images {where(table)}", "",
        f"{table['title']}{figures.scaled(table)}, in one directory. {table['rounds']} "
        f"round{'s' * (table['rounds'] > 1)}. Before the start, other processes used {table['background']:.0%} of the "
        f"CPU time. The hypervisor took away at most {steal:.2f} s in a run (steal time).", "",
    ]
    lines += grid(table, heads(table, True) + ["server memory, MiB"], peers,
                  by_row(table, cell) + [lambda peer: memory(table, peer)])
    lines += [""] + [f"- Not run: {reason}." for reason in table["skipped"]]
    lines += [f"- **Failed**: {reason}." for reason in table["failed"]] + [""]
    others = [peer for peer in peers if not peer.startswith("ours")]
    for base in (peer for peer in peers if others and peer.startswith("ours")):
        lines += [f"How many times as fast {table['peers'][base]['label']} is, by the medians, and in "
                  "parentheses by each round:", ""]
        lines += grid(table, heads(table, False), others,
                      by_row(table, lambda t, peer, row, base=base: ahead_cell(t, base, peer, row))) + [""]
    lines += mount_claims.section(table, middle, ahead)
    if table["rounds"] > 1:
        lines += ["Minimum to maximum:", ""]
        lines += grid(table, heads(table, True), peers, by_row(table, spread_cell)) + [""]
    lines += ["Machine CPU, s:", ""]
    return lines + grid(table, heads(table, False), peers, by_row(table, cpu_cell)) + [""]


def answer(tables: list[dict]) -> list[str]:
    """How fast it is, against what one would use instead: of the first table that has others."""
    for table in tables:
        others = [peer for peer in table["peers"] if not peer.startswith("ours")]
        if others and "ours" in table["peers"]:
            break
    else:
        return []
    def against(peer: str, row: str) -> str:
        times = ahead(table, "ours", peer, row)
        if times is None:
            return cell(table, peer, row)
        return f"{times:.2f} x" if times < 100 else f"{times:.0f} x"

    rows = [[f"{about['title']}, {about['unit']}", cell(table, "ours", row), *(against(peer, row) for peer in others)]
            for row, about in table["rows"].items()]
    labels = [table["peers"][peer]["label"] for peer in others]
    return [
        f"What `lbpayload mount` reaches, images {where(table)}, and how many times as fast it is as the others "
        "(above 1: lbpayload is faster).", "",
        *figures.grid(["", "lbpayload", *labels], rows), "",
    ]


def markdown(runs: list[dict]) -> str:
    tables = [table for run in runs for table in run["tables"]]
    lines = ["# Mount, compared", "", *answer(tables), "![The medians as bars](mount.svg)", ""]
    for table in tables:
        lines += section(table)
    lines += ["## How to read the tables", "", READING, *figures.conditions(runs)]
    return "\n".join(lines).rstrip() + "\n"
