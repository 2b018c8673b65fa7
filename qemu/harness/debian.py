"""Packages of Debian, fetched and unpacked under target/qemu without installing them.

apt is given lists and a cache of our own for each architecture, so that neither root nor
`dpkg --add-architecture` is needed. Packages come from where the machine's own apt
gets them; what its release no longer has, from Debian 12 at the same place.
"""

import fcntl
import os
import platform
import re
import shutil
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

from .outcome import Skipped
from .places import WORK

_PACKAGES = WORK / "packages"
# The last release with kernels for i386.
_OLDER = "bookworm"
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
    for release in ("own", _OLDER):
        apt = _Apt(release, architecture)
        if real := apt.real_name(package):
            break
    else:
        raise Skipped(f"{package}:{architecture} is not to be had: {apt.last_words}")
    loading = _PACKAGES / "loading"
    shutil.rmtree(loading, ignore_errors=True)
    loading.mkdir(parents=True)
    done = apt.run("apt-get", "download", "-q", real, directory=loading)
    archives = list(loading.glob("*.deb"))
    if done.returncode or len(archives) != 1:
        raise Skipped(f"apt-get download {real} ({architecture}) failed: {apt.last_words}")
    fresh = loading / "files"
    subprocess.run(["dpkg-deb", "-x", archives[0], fresh], check=True)
    fresh.rename(place)
    shutil.rmtree(loading)


class _Apt:
    """apt with lists and a cache of its own, for the machine's release or another.

    One for each architecture: apt drops all lists of a source when one is out of step.
    """

    def __init__(self, release: str, architecture: str):
        self.last_words = "it says nothing"
        self._directory = WORK / "apt" / f"{release}_{architecture}"
        self._config = self._directory / "apt.conf"
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self._directory / name).mkdir(parents=True, exist_ok=True)
        (self._directory / "state/status").touch()
        sources = "" if release == "own" else self._sources_of(release)
        self._config.write_text(
            f'Dir::State "{self._directory}/state";\nDir::State::status "{self._directory}/state/status";\n'
            f'Dir::Cache "{self._directory}/cache";\n{sources}'
            f'APT::Architecture "{architecture}";\nAPT::Architectures {{ "{architecture}"; }};\n'
            # The lists are ours, so apt's own user could not write them.
            'APT::Sandbox::User "";\nAcquire::Languages "none";\n'
        )
        fetched = self._directory / "fetched"
        if not fetched.exists():
            # Fails when any of the sources does; what is missing is found out later.
            self.run("apt-get", "update", "-q")
            if list((self._directory / "state/lists").glob("*Packages*")):
                fetched.touch()

    def _sources_of(self, release: str) -> str:
        """The machine's own sources, copied with another release's name in them."""
        copies = self._directory / "sources"
        copies.mkdir(exist_ok=True)
        own = platform.freedesktop_os_release().get("VERSION_CODENAME", release)
        for source in [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]:
            if source.is_file():
                (copies / source.name).write_text(source.read_text().replace(own, release))
        return f'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "{copies}";\n'

    def real_name(self, package: str) -> str | None:
        """Its name, or that of the kernel that an empty package of today depends on."""
        shown = self.run("apt-cache", "show", "--no-all-versions", package)
        if shown.returncode or not shown.stdout:
            return None
        found = re.search(r"^Depends: (linux-image-[^ ,]+)", shown.stdout, re.MULTILINE)
        return found[1] if found else package

    def run(self, *words: str, directory: Path | None = None) -> subprocess.CompletedProcess:
        environment = {**os.environ, "APT_CONFIG": str(self._config), "LC_ALL": "C"}
        done = subprocess.run(words, cwd=directory or self._directory, env=environment, capture_output=True, text=True)
        if lines := done.stderr.strip().splitlines():
            self.last_words = lines[-1]
        return done
