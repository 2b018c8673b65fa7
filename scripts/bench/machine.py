"""The machine and the versions, for whoever reads the tables later."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Where cargo builds.
TARGET = Path(subprocess.run([ROOT / "scripts/built"], stdout=subprocess.PIPE, text=True, check=True).stdout.rstrip("\n"))


def first_line(*command: object, stderr: bool = False) -> str | None:
    """What a command says first; with `stderr` wherever it says it."""
    try:
        done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, text=True, cwd=ROOT,
                              stderr=subprocess.STDOUT if stderr else subprocess.DEVNULL)
    except OSError:
        return None
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else None


def field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.split(":", 1)[1].strip() if ":" in line else line.split("=", 1)[1].strip('"')
    return "unknown"


def commit() -> str:
    revision = first_line("git", "-c", f"safe.directory={ROOT}", "rev-parse", "--short", "HEAD")
    changed = first_line("git", "-c", f"safe.directory={ROOT}", "status", "--porcelain", "-uno")
    return f"commit {revision or 'unknown'}" + (" with changes" if changed else "")


def facts(work: Path, versions: list[str]) -> dict:
    disk = first_line("findmnt", "-n", "-o", "SOURCE,FSTYPE", "-T", work) or "unknown unknown"
    return {
        "cpu": field("/proc/cpuinfo", "model name"),
        "cpus": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "system": field("/etc/os-release", "PRETTY_NAME"),
        "disk": disk.split()[0],
        "disk_fs": disk.split()[-1],
        "commit": commit(),
        "versions": versions,
    }
