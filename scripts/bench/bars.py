"""Horizontal bars in panels, written as SVG by hand."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 860
LABELS = 230
BARS = 470
ROW = 24
PANEL_HEAD = 40
PANEL_GAP = 22


@dataclass
class Bar:
    label: str
    colour: str
    low: float
    middle: float
    high: float
    said: str


def text(x: float, y: float, words: str, extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {extra}>{escape(words)}</text>'


def rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height}" fill="{colour}"/>'


def whisker(low: float, high: float, y: float) -> str:
    path = f"M{low:.1f} {y - 4:.1f}v8M{low:.1f} {y:.1f}H{high:.1f}M{high:.1f} {y - 4:.1f}v8"
    return f'<path d="{path}" stroke="#333" fill="none"/>'


def legend(entries: list[tuple[str, str]], y: float) -> list[str]:
    """`entries`: colour and words."""
    parts, x = [], 20.0
    for colour, words in entries:
        parts += [rect(x, y - 10, 12, 12, colour), text(x + 18, y, words)]
        x += 46 + 6.6 * len(words)
    return parts


def draw(bar: Bar, y: float, scale: float) -> list[str]:
    left = LABELS + 10
    parts = [
        text(LABELS, y + 15, bar.label, 'text-anchor="end"'),
        rect(left, y + 3, bar.middle * scale, ROW - 7, bar.colour),
    ]
    if bar.low < bar.high:
        parts.append(whisker(left + bar.low * scale, left + bar.high * scale, y + 11.5))
    return parts + [text(left + bar.high * scale + 8, y + 15, bar.said)]


def panel(heading: str, below: str, bars: list[Bar], y: float) -> tuple[list[str], float]:
    """The parts, and where the next panel begins."""
    longest = max(bar.high for bar in bars) or 1
    parts = [
        text(20, y + 16, heading, 'font-weight="bold"'),
        text(20, y + 32, below, 'fill="#555"'),
    ]
    y += PANEL_HEAD
    top = y
    for bar in bars:
        parts += draw(bar, y, BARS / longest)
        y += ROW
    axis = f'<path d="M{LABELS + 10} {top}V{y}" stroke="#888"/>'
    return parts + [axis], y + PANEL_GAP


def document(name: str, heading: str, below: str, entries: list[tuple[str, str]],
             panels: list[tuple[str, str, list[Bar]]]) -> str:
    parts = [text(20, 30, heading, 'font-size="17" font-weight="bold"')]
    parts += [text(20, 50, below, 'fill="#555"')]
    parts += legend(entries, 74)
    y = 96.0
    for one in panels:
        drawn, y = panel(*one, y)
        parts += drawn
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {WIDTH} {y:.0f}" '
        f'width="{WIDTH}" height="{y:.0f}" font-family="Helvetica, Arial, sans-serif" font-size="13" fill="#222">\n'
        f"<title>{escape(name)}</title>\n"
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
