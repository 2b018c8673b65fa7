"""Numbers and facts as every report words them."""

from __future__ import annotations

from statistics import median


def seconds(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


def spread(found: list[float]) -> str:
    if len(found) == 1:
        return seconds(found[0])
    return f"{seconds(median(found))} ({seconds(min(found))} to {seconds(max(found))})"


def scaled(table: dict) -> str:
    return f" (shrunk by --scale {table['scale']:g})" if table["scale"] != 1 else ""


def grid(heads: list[str], rows: list[list[str]]) -> list[str]:
    """A table whose first column is words and whose others are numbers."""
    lines = [f"| {' | '.join(heads)} |".replace("|  |", "| |"), "| --- |" + " ---: |" * (len(heads) - 1)]
    return lines + ["| " + " | ".join(cells) + " |" for cells in rows]


def conditions(runs: list[dict]) -> list[str]:
    """On what machine and with which commands; each machine and its programs once."""
    lines = ["## Conditions", ""]
    known = []
    for run in runs:
        if run["machine"] not in known:
            known.append(run["machine"])
    for facts in known:
        lines += [
            f"{facts['cpu']} ({facts['cpus']} processors, {facts['memory'] / (1 << 30):.0f} GiB), "
            f"{facts['system']}, Linux {facts['kernel']}; the disk place is {facts['disk_fs']} on {facts['disk']}. "
            f"Source {facts['commit']}. {', '.join(facts['versions'])}. Made on", "",
        ]
        lines += [f"- {run['date']} with `{run['command']}`" for run in runs if run["machine"] == facts] + [""]
    return lines
