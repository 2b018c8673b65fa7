"""Where things lie."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GUEST = ROOT / "qemu/guest"
# Where cargo builds.
TARGET = Path(subprocess.run([ROOT / "scripts/built"], stdout=subprocess.PIPE, text=True, check=True).stdout.rstrip("\n"))
# Packages, what is made of them, and a directory for each case.
WORK = TARGET / "qemu"
