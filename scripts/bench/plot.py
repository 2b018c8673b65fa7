"""The medians of the import bench as horizontal bars, one panel a table."""

from __future__ import annotations

from statistics import median

import bars
import report

COLOURS = {"ours": "#1f6f8b", "files": "#c9a66b", "image": "#a3b18a", "limit": "#cfd3d6"}
LEGEND = [
    (COLOURS["ours"], "lbpayload"),
    (COLOURS["files"], "imports the files"),
    (COLOURS["image"], "copies the whole device"),
    (COLOURS["limit"], "limit of the device or destination"),
]


def bar(table: dict, peer: str) -> bars.Bar:
    found = report.values(table, peer, "wall")
    said = f"{report.seconds(median(found))} s"
    against = report.ratio(table, peer).split(" ")[0]
    if against not in ("-", "1"):
        said += f"  ({against} x ours)"
    about = table["peers"][peer]
    colour = COLOURS["ours" if peer.startswith("ours") else about["kind"]]
    return bars.Bar(about["label"], colour, min(found), median(found), max(found), said)


def svg(runs: list[dict]) -> str:
    panels = [
        (report.heading(table), table["title"], [bar(table, peer) for peer in report.order(table)])
        for run in runs
        for table in run["tables"]
        if report.order(table)
    ]
    return bars.document(
        "Import, compared: wall seconds by peer",
        "Import: seconds until the data is on stable storage",
        "Median of the rounds; the thin line is minimum to maximum. Shorter is better.",
        LEGEND, panels,
    )
