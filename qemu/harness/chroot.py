"""A small Debian in a directory, to make there what a user's machine would."""

import fcntl
import os
import shutil
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

from .outcome import Failed, NotSetUp, Skipped
from .places import WORK

_thread = threading.Lock()
_PACKAGES = "initramfs-tools,dracut-core,busybox,kmod,udev,nbd-client,open-iscsi"


@contextmanager
def debian():
    """Its root, to be had by one case at a time; made by debootstrap, again if packages are added."""
    place, made_of = WORK / "debian", WORK / "debian.packages"
    with _thread, open(WORK / "debian.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not place.exists() or not made_of.exists() or made_of.read_text() != _PACKAGES:
            _make(place)
            made_of.write_text(_PACKAGES)
        yield place


def run(root: Path, *words: str) -> str:
    """Runs a command in there, which is to succeed; its output."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    done = subprocess.run(["chroot", root, *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise Failed(f"{' '.join(words)} in {root}: status {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _make(place: Path) -> None:
    if os.geteuid() != 0:
        raise NotSetUp("debootstrap takes root")
    if not shutil.which("debootstrap"):
        raise NotSetUp("debootstrap is not installed; scripts/setup qemu installs it, as root")
    fresh = place.with_suffix(".part")
    shutil.rmtree(fresh, ignore_errors=True)
    words = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", *_suite_and_mirror(fresh)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise Skipped(f"debootstrap failed: {done.stdout.strip().splitlines()[-1:]}")
    shutil.rmtree(place, ignore_errors=True)
    fresh.rename(place)


def _suite_and_mirror(target: Path) -> list[str]:
    """The first archive of the machine's own apt that has a whole Debian."""
    asked = ["apt-get", "indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"]
    for line in subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines():
        codename, component, uri = line.split()
        if component == "main" and "-" not in codename and "debian" in uri:
            return [codename, str(target), uri]
    raise Skipped("apt has no archive of Debian's configured")
