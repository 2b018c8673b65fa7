"""Our program for the guest: one static binary."""

import subprocess
from functools import cache
from pathlib import Path

from .debian import alone
from .outcome import Failed
from .places import ROOT, TARGET


@cache
def program(architecture: str, bare: bool = False) -> Path:
    """The binary for `x86_64` or `i686`, built anew where sources are newer."""
    words = ["scripts/build-static", *(["--bare"] if bare else []), architecture]
    with alone():
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{' '.join(words)} failed:\n{done.stderr.strip()}")
    return TARGET / "static" / architecture / ("lbpayload-bare" if bare else "lbpayload")
