"""Our program for the guest: one static binary."""

import os
import subprocess
from functools import cache
from pathlib import Path

from .debian import alone
from .outcome import Skipped
from .places import ROOT, TARGET


@cache
def program(architecture: str) -> Path:
    """The binary for `x86_64` or `i686`, built where sources are newer."""
    with alone():
        if (script := ROOT / "scripts/build-static").exists():
            words, result = [script, architecture], ROOT / "target/static" / architecture / "lbpayload"
            environment = {}
        elif architecture == "x86_64":
            target = "x86_64-unknown-linux-gnu"
            words = ["cargo", "build", "--locked", "--release", "--no-default-features", "--target", target]
            result = TARGET / target / "release/lbpayload"
            environment = {"RUSTFLAGS": "-C target-feature=+crt-static"}
        else:
            raise Skipped(f"nothing here builds a static binary for {architecture}")
        done = subprocess.run(words, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))} failed:\n{done.stderr}")
    return result
