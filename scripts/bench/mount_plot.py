"""The medians of the mount bench as horizontal bars, one panel a row."""

from __future__ import annotations

from statistics import median

import bars
import mount_report

COLOURS = {"ours": "#1f6f8b", "fuse": "#c9a66b", "kernel": "#cfd3d6"}
LEGEND = [
    (COLOURS["ours"], "lbpayload"),
    (COLOURS["fuse"], "other FUSE servers"),
    (COLOURS["kernel"], "the kernel on a loop device"),
]


def bar(table: dict, peer: str, row: str) -> bars.Bar:
    about, colour = table["peers"][peer], COLOURS[table["peers"][peer]["kind"]]
    values, words = mount_report.found(table, peer, row), mount_report.cell(table, peer, row)
    if not values:
        return bars.Bar(about["label"], colour, 0, 0, 0, words)
    ratio = mount_report.ahead(table, "ours", peer, row)
    if ratio is not None and not peer.startswith("ours"):
        words += f"  (ours {ratio:.2f} x)"
    return bars.Bar(about["label"], colour, min(values), median(values), max(values), words)


def panel(table: dict, row: str) -> tuple[str, str, list[bars.Bar]]:
    about = table["rows"][row]
    where = "tmpfs" if table["place"] == "memory" else "disk"
    better = "longer" if about["more"] else "shorter"
    peers = [peer for peer in table["peers"] if mount_report.runs_of(table, peer, row)]
    return (f"{about['title']}, {about['unit']}", f"image on {where}; {better} is better",
            [bar(table, peer, row) for peer in peers])


def svg(runs: list[dict]) -> str:
    panels = [panel(table, row) for run in runs for table in run["tables"] for row in table["rows"]]
    return bars.document(
        "Mount, compared", "Mount: lbpayload, the kernel's filesystems and other FUSE servers",
        "Median of the rounds; the thin line is minimum to maximum. Ours 2 x: ours is twice as fast.",
        LEGEND, [one for one in panels if one[2]],
    )
