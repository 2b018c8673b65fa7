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


def made_on(run: dict) -> list[str]:
    facts = run["machine"]
    lines = [
        f"Made on {run['date']} with", "", "    " + run["command"], "",
        f"on {facts['cpu']} ({facts['cpus']} processors, {facts['memory'] / (1 << 30):.0f} GiB), "
        f"{facts['system']}, Linux {facts['kernel']}; the disk place is {facts['disk_fs']} on {facts['disk']}. "
        f"Source {facts['commit']}.", "",
    ]
    return lines + [f"- {version}" for version in facts["versions"]] + [""]
