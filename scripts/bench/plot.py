"""The medians as horizontal bars, one panel a table, written as SVG by hand."""

from __future__ import annotations

from statistics import median
from xml.sax.saxutils import escape

import report

WIDTH = 860
LABELS = 230
BARS = 470
ROW = 24
PANEL_HEAD = 40
PANEL_GAP = 22

COLOURS = {"ours": "#1f6f8b", "files": "#c9a66b", "image": "#a3b18a", "limit": "#cfd3d6"}
LEGEND = [
    ("ours", "lbpayload"),
    ("files", "imports the files"),
    ("image", "copies the whole device"),
    ("limit", "limit of the device or destination"),
]


def text(x: float, y: float, words: str, extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {extra}>{escape(words)}</text>'


def rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height}" fill="{colour}"/>'


def whisker(low: float, high: float, y: float) -> str:
    path = f"M{low:.1f} {y - 4:.1f}v8M{low:.1f} {y:.1f}H{high:.1f}M{high:.1f} {y - 4:.1f}v8"
    return f'<path d="{path}" stroke="#333" fill="none"/>'


def legend(y: float) -> list[str]:
    parts, x = [], 20.0
    for kind, words in LEGEND:
        parts += [rect(x, y - 10, 12, 12, COLOURS[kind]), text(x + 18, y, words)]
        x += 46 + 6.6 * len(words)
    return parts


def bar(table: dict, peer: str, y: float, scale: float) -> list[str]:
    found = report.values(table, peer, "wall")
    wall, left = median(found), LABELS + 10
    colour = COLOURS["ours" if peer.startswith("ours") else table["peers"][peer]["kind"]]
    parts = [
        text(LABELS, y + 15, table["peers"][peer]["label"], 'text-anchor="end"'),
        rect(left, y + 3, wall * scale, ROW - 7, colour),
    ]
    end = max(found) * scale
    if len(found) > 1:
        parts.append(whisker(left + min(found) * scale, left + end, y + 11.5))
    said = f"{report.seconds(wall)} s"
    against = report.ratio(table, peer).split(" ")[0]
    if against not in ("-", "1"):
        said += f"  ({against} x ours)"
    return parts + [text(left + end + 8, y + 15, said)]


def panel(table: dict, y: float) -> tuple[list[str], float]:
    peers = report.order(table)
    longest = max(max(report.values(table, peer, "wall")) for peer in peers)
    parts = [
        text(20, y + 16, report.heading(table), 'font-weight="bold"'),
        text(20, y + 32, table["title"], 'fill="#555"'),
    ]
    y += PANEL_HEAD
    top = y
    for peer in peers:
        parts += bar(table, peer, y, BARS / longest)
        y += ROW
    axis = f'<path d="M{LABELS + 10} {top}V{y}" stroke="#888"/>'
    return parts + [axis], y + PANEL_GAP


def svg(runs: list[dict]) -> str:
    parts = [text(20, 30, "Import: seconds until the data is on stable storage", 'font-size="17" font-weight="bold"')]
    parts += [text(20, 50, "Median of the rounds; the thin line is minimum to maximum. Shorter is better.", 'fill="#555"')]
    parts += legend(74)
    y = 96.0
    for run in runs:
        for table in run["tables"]:
            if report.order(table):
                drawn, y = panel(table, y)
                parts += drawn
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {WIDTH} {y:.0f}" '
        f'width="{WIDTH}" height="{y:.0f}" font-family="Helvetica, Arial, sans-serif" font-size="13" fill="#222">\n'
        f"<title>Import, compared: wall seconds by peer</title>\n"
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
