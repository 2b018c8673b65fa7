"""Where things lie."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GUEST = ROOT / "qemu/guest"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
# Packages, what is made of them, and a directory for each case.
WORK = TARGET / "qemu"
