"""Our program for the guest: one static binary."""

import subprocess
from functools import cache
from pathlib import Path

from .debian import alone
from .outcome import Failed
from .places import ROOT, TARGET


@cache
def program(architecture: str) -> Path:
    """The binary for `x86_64` or `i686`, built anew where sources are newer."""
    with alone():
        done = subprocess.run([ROOT / "scripts/build-static", architecture], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"scripts/build-static {architecture} failed:\n{done.stderr.strip()}")
    return TARGET / "static" / architecture / "lbpayload"
