"""What `lbpayload mount` sets out to reach, beside what it reached."""

from __future__ import annotations

from typing import Callable

MIB = 1 << 20

# Times as fast as every FUSE peer.
AGAINST_FUSE = {"sequential": 1.5, "two": 1.8, "random1": 1.2, "random2": 1.2, "find": 8, "small": 2}
# Times as fast as the kernel's ext4 on a loop device. A second read is "the same": within noise.
AGAINST_EXT4 = {"random1": 1.5, "random2": 2.5, "find": 1.6, "small": 1.1, "two": 1.3,
                "sequential": 0.65, "again": 0.95}
READY_SECONDS = 0.1
READY_BEHIND = 0.03
MEMORY = 5 * MIB


def line(words: str, wanted: str, reached: str, holds: bool) -> str:
    return f"| {words} | {wanted} | {reached} | {'yes' if holds else '**no**'} |"


def against_fuse(table: dict, ours: str, ahead: Callable) -> list[str]:
    fuse = [peer for peer, about in table["peers"].items() if about["kind"] == "fuse"]
    lines = []
    for row, wanted in AGAINST_FUSE.items():
        if row not in table["rows"]:
            continue
        ratios = {peer: ratio for peer in fuse if (ratio := ahead(table, ours, peer, row)) is not None}
        if ratios:
            nearest = min(ratios, key=ratios.get)
            lines.append(line(
                f"{table['rows'][row]['title']}, against the best FUSE peer ({nearest})",
                f"{wanted:g} x", f"{ratios[nearest]:.2f} x", ratios[nearest] >= wanted))
    return lines


def against_ext4(table: dict, ours: str, ahead: Callable) -> list[str]:
    lines = []
    for row, wanted in AGAINST_EXT4.items():
        ratio = ahead(table, ours, "ext4", row) if row in table["rows"] else None
        if ratio is not None:
            lines.append(line(f"{table['rows'][row]['title']}, against ext4", f"{wanted:g} x", f"{ratio:.2f} x",
                              ratio >= wanted))
    return lines


def ready(table: dict, middle: Callable) -> list[str]:
    if "ready" not in table["rows"] or (ours := middle(table, "ours", "ready")) is None:
        return []
    lines = [line(f"ready with {table['files']} files", f"{READY_SECONDS} s", f"{ours:.3f} s", ours <= READY_SECONDS)]
    others = [middle(table, peer, "ready") for peer, about in table["peers"].items() if about["kind"] != "ours"]
    if fastest := min((value for value in others if value), default=None):
        behind = ours - fastest
        lines.append(line("ready, behind the fastest peer", f"{READY_BEHIND * 1000:.0f} ms",
                          f"{behind * 1000:.0f} ms", behind <= READY_BEHIND))
    return lines


def memory(table: dict) -> list[str]:
    seen = [run["memory"] for run in table["runs"] if run["peer"] == "ours" and "memory" in run]
    if not seen:
        return []
    return [line("anonymous memory", f"{MEMORY / MIB:.0f} MiB", f"{max(seen) / MIB:.1f} MiB", max(seen) <= MEMORY)]


def section(table: dict, middle: Callable, ahead: Callable) -> list[str]:
    if "ours" not in table["peers"]:
        return []
    head = ["| | wanted | reached | holds |", "| --- | ---: | ---: | --- |"]
    text = []
    lines = against_fuse(table, "ours", ahead) + against_ext4(table, "ours", ahead)
    lines += ready(table, middle) + memory(table)
    if lines:
        text += ["The targets, with default options:", "", *head, *lines, ""]
    # The other choice: what it gains for large files, and what that costs.
    if "ours-direct_io" in table["peers"]:
        other = against_fuse(table, "ours-direct_io", ahead) + against_ext4(table, "ours-direct_io", ahead)
        if other:
            text += ["The same with `-o direct_io`, which bypasses the page cache of the mount:", "", *head, *other, ""]
    return text
