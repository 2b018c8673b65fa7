"""QEMU, with KVM where that really works, else with TCG."""

import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

from .kernels import kernel
from .outcome import NotSetUp, Skipped
from .places import WORK

_LIMIT_SECONDS = 15


def emulator() -> str:
    """QEMU's path."""
    if platform.machine() != "x86_64":
        raise Skipped(f"the guests are x86, and the host's side of it runs on x86_64, not {platform.machine()}")
    found = shutil.which("qemu-system-x86_64")
    if not found:
        raise NotSetUp("qemu-system-x86_64 is not installed; scripts/setup qemu installs it, as root")
    return found


@cache
def accelerator() -> str:
    """`kvm` or `tcg`; found out once for each boot of this machine.

    /dev/kvm may exist, take the first instructions, and hang at later ones (nested
    virtualization is where that is seen), so nothing less than a kernel is tried.
    """
    if not Path("/dev/kvm").exists():
        return "tcg"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = WORK / f"accelerator-{boot}"
    if not known.exists():
        image = kernel("cloud").image
        for old in WORK.glob("accelerator-*"):
            old.unlink()
        known.write_text("kvm" if _kvm_boots(image) else "tcg")
    return known.read_text()


def _kvm_boots(image: Path) -> bool:
    """Whether the kernel gets as far as missing its root, and says so.

    That QEMU ends proves nothing: it also does when the guest crashes at once.
    """
    words = [emulator(), "-accel", "kvm", "-machine", "pc", "-m", "256", "-no-reboot"]
    words += ["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"]
    words += ["-kernel", image, "-append", "console=ttyS0 panic=-1"]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        said, _ = process.communicate(timeout=_LIMIT_SECONDS)
        return b"Unable to mount root" in said
    except subprocess.TimeoutExpired:
        # It may hang where no signal reaches it, so its end is not waited for.
        process.kill()
        return False
