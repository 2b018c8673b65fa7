"""Packages of Debian, fetched and unpacked under target/qemu without installing them.

apt is given lists and a cache of our own and both architectures, so that neither root
nor `dpkg --add-architecture` is needed; where packages come from is what the machine's
own apt is configured to.
"""

import fcntl
import re
import shutil
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

from .outcome import Skipped
from .places import WORK

_APT = WORK / "apt"
_PACKAGES = WORK / "packages"
_thread = threading.Lock()


@contextmanager
def alone():
    """Keeps other threads, and other runs in this tree, from fetching at the same time."""
    WORK.mkdir(parents=True, exist_ok=True)
    with _thread, open(WORK / "lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def unpacked(package: str, architecture: str) -> Path:
    """The files of `package`, or of what it depends on first where it is an empty one."""
    place = _PACKAGES / f"{package}_{architecture}"
    with alone():
        if not place.exists():
            _unpack(package, architecture, place)
    return place


def _unpack(package: str, architecture: str, place: Path) -> None:
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise Skipped(f"{package} comes from Debian's archive, and there is no apt-get here")
    config = _configured()
    real = _real_name(package, architecture, config)
    loading = _PACKAGES / "loading"
    shutil.rmtree(loading, ignore_errors=True)
    loading.mkdir(parents=True)
    done = _apt(["apt-get", "download", "-q", f"{real}:{architecture}"], config, loading)
    archives = list(loading.glob("*.deb"))
    if done.returncode or len(archives) != 1:
        raise Skipped(f"apt-get download {real}:{architecture} failed: {_last(done.stderr)}")
    fresh = loading / "files"
    subprocess.run(["dpkg-deb", "-x", archives[0], fresh], check=True)
    fresh.rename(place)
    shutil.rmtree(loading)


def _configured() -> Path:
    """apt's configuration, and lists that are there."""
    config = _APT / "apt.conf"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (_APT / name).mkdir(parents=True, exist_ok=True)
    (_APT / "state/status").touch()
    config.write_text(
        f'Dir::State "{_APT}/state";\nDir::State::status "{_APT}/state/status";\n'
        f'Dir::Cache "{_APT}/cache";\nAPT::Architecture "amd64";\n'
        'APT::Architectures { "amd64"; "i386"; };\n'
        # The lists are ours, so apt's own user could not write them.
        'APT::Sandbox::User "";\nAcquire::Languages "none";\n'
    )
    fetched = _APT / "fetched"
    if not fetched.exists():
        # Fails when any of the machine's sources does; what is missing is found out below.
        _apt(["apt-get", "update", "-q"], config, _APT)
        if list((_APT / "state/lists").glob("*Packages*")):
            fetched.touch()
    return config


def _real_name(package: str, architecture: str, config: Path) -> str:
    shown = _apt(["apt-cache", "show", "--no-all-versions", f"{package}:{architecture}"], config, _APT)
    if shown.returncode or not shown.stdout:
        raise Skipped(f"this machine's Debian has no {package}:{architecture} ({_last(shown.stderr)})")
    # linux-image-amd64 is empty and depends on the image proper of the day.
    found = re.search(r"^Depends: (linux-image-[^ ,]+)", shown.stdout, re.MULTILINE)
    return found[1] if found else package


def _apt(words: list, config: Path, directory: Path) -> subprocess.CompletedProcess:
    environment = {"APT_CONFIG": str(config), "LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    return subprocess.run(words, cwd=directory, env=_with_proxies(environment), capture_output=True, text=True)


def _with_proxies(environment: dict) -> dict:
    import os

    return {**{k: v for k, v in os.environ.items() if k.lower().endswith("_proxy")}, **environment}


def _last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line]
    return lines[-1] if lines else "it says nothing"
