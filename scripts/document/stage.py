"""What the transcripts start from: the same files on every machine."""

import atexit
import os
import random
import shutil
import subprocess
import tempfile

FILES = {
    "VERSIONS.txt": 0,
    "bash-5.2.15.tar.xz": 420_000,
    "binutils-2.41.tar.xz": 1_310_000,
    "coreutils-9.4.tar.xz": 480_000,
    "gcc-13.1.0.tar.xz": 3_700_000,
    "gmp-6.2.1.tar.xz": 160_000,
    "linux-6.6.tar.xz": 4_900_000,
    "musl-1.2.4.tar.gz": 105_000,
    "perl-5.32.1.tar.xz": 930_000,
}


def programs():
    """Returns a directory with the program under its own name."""
    where = tempfile.mkdtemp(prefix="lbpayload-bin-")
    atexit.register(shutil.rmtree, where, ignore_errors=True)
    os.symlink(os.path.abspath(os.environ["LBPAYLOAD"]), f"{where}/lbpayload")
    return where


def fill(work):
    """Fills a directory: archives to pack, and a workspace for promote."""
    distfiles = work / "distfiles"
    distfiles.mkdir()
    noise = random.Random(1)
    for name, size in FILES.items():
        (distfiles / name).write_bytes(noise.randbytes(size))
    (distfiles / "VERSIONS.txt").write_text("".join(f"{name}\n" for name in list(FILES)[1:]))
    subprocess.run(["sh", "-ec", WORKSPACE], cwd=work, check=True)


WORKSPACE = """
mkdir -p bsp/target-platform bsp/Source/Linux_for_Tegra/bootloader bsp/Image/Linux_for_Tegra
cd bsp
echo 'active: board.yaml' > target-platform/active_target.yml
printf 'bsp_image: {version: "36.4"}\\nsource: {}\\n' > target-platform/board.yaml
cd Source/Linux_for_Tegra
echo 'baud=115200' > bootloader/board.conf
git init -q
git add -A
export GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z'
git -c user.name=Anna -c user.email=anna@example.com commit -qm 'board.conf'
"""
