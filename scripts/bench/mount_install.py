"""Gets the peers: Debian's packages, PyPI's ratarmount, and erofsfuse from Debian's source.

Packages go where apt puts them. The rest goes below CACHE and nowhere else; remove
that directory to be rid of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import machine
from places import warn

CACHE = Path("/var/cache/lbpayload-bench")

PACKAGES = {
    "squashfuse_ll": "squashfuse",
    "mksquashfs": "squashfs-tools",
    "mkfs.erofs": "erofs-utils",
    "erofsfuse": "erofsfuse",
    "archivemount": "archivemount",
    "fuse-archive": "fuse-archive",
    "ratarmount": "ratarmount",
}

# Bookworm has no package of erofsfuse, and trixie's wants a newer libc: its source is
# built here. No compressor: the image is not compressed.
EROFS_SUITE = "trixie"
EROFS_NEEDS = ["autoconf", "automake", "libtool", "make", "pkgconf", "dpkg-dev", "gcc", "libc6-dev",
               "libfuse3-dev", "uuid-dev", "zlib1g-dev"]
EROFS_OPTIONS = ["--enable-fuse", "--disable-lz4", "--disable-lzma", "--without-selinux",
                 "--without-libzstd", "--without-libdeflate"]
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Unavailable(Exception):
    """Why a peer does not run here."""


def kernel_has(filesystem: str) -> None:
    if shutil.which("modprobe"):
        # Fails where it is built in, which is as good.
        subprocess.run(["modprobe", "-q", filesystem], stderr=subprocess.DEVNULL)
    known = [line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()]
    if filesystem not in known:
        raise Unavailable(f"this kernel has no {filesystem}")


def tool(name: str, install: bool) -> Path:
    """Where the program is, after installing it if that is allowed and possible."""
    for found in (shutil.which(name), CACHE / name / "bin" / name):
        if found and Path(found).exists():
            return Path(found)
    if not install:
        raise Unavailable(f"{name} is missing: apt-get install {PACKAGES[name]}, or leave out --no-install")
    if apt_has(PACKAGES[name]):
        apt_install([PACKAGES[name]])
    elif name == "ratarmount":
        return python_package(name)
    elif name == "erofsfuse":
        return erofsfuse()
    else:
        raise Unavailable(f"{name} is neither installed nor among the packages that apt knows here")
    found = shutil.which(name)
    if not found:
        raise Unavailable(f"the package {PACKAGES[name]} has no {name}")
    return Path(found)


def version_file(program: Path) -> Path:
    return program.parents[1] / "version"


def version(name: str, path: Path) -> str | None:
    """What was installed, in the words of whoever installed it."""
    package = PACKAGES[name]
    if version_file(path).is_file():
        return version_file(path).read_text().strip()
    if path.is_relative_to("/usr"):
        found = machine.first_line("dpkg-query", "-W", "-f", "${Package} ${Version} (Debian)", package)
        if found:
            return found
    said = machine.first_line(path, "--version", stderr=True)
    return said and (said if name in said else f"{name} {said}")


def step(*command: object, cwd: Path | None = None) -> None:
    """One command of an installation; what it says is shown only when it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
    )
    if done.returncode:
        last = done.stdout.strip().splitlines()[-1:] or ["no message"]
        raise Unavailable(f"{' '.join(words[:4])} answered {done.returncode}: {last[0]}")


# Debian.

listed = False


def apt_update() -> None:
    global listed
    if not listed:
        step("apt-get", "update", "-qq")
        listed = True


def apt_has(package: str) -> bool:
    apt_update()
    done = subprocess.run(["apt-cache", "policy", package], stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "LC_ALL": "C"})
    return "Candidate:" in done.stdout and "Candidate: (none)" not in done.stdout


def apt_install(packages: list[str]) -> None:
    # Without fuse3 apt would choose the old fuse, which can't stand beside it.
    wanted = ["fuse3", *packages]
    warn(f"installing {' '.join(packages)}")
    apt_update()
    step("apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-qq", "-y", "--no-install-recommends", *wanted)


def mirror() -> str:
    """The Debian mirror that this machine uses."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages",
         "Label: Debian", "Component: main"],
        stdout=subprocess.PIPE, text=True,
    )
    if not done.stdout:
        raise Unavailable("apt knows no Debian mirror here")
    return done.stdout.split()[0]


def source_package(name: str, suite: str, into: Path) -> Path:
    """Unpacks a Debian source with lists of its own; the machine's stay as they are."""
    lists = into / "apt"
    for directory in ("lists/partial", "cache/archives/partial"):
        (lists / directory).mkdir(parents=True, exist_ok=True)
    keyring = f"[signed-by={KEYRING}] " if Path(KEYRING).exists() else ""
    (lists / "sources.list").write_text(f"deb-src {keyring}{mirror()} {suite} main\n")
    own = [
        "apt-get", "-o", f"Dir::Etc::sourcelist={lists}/sources.list", "-o", "Dir::Etc::sourceparts=/dev/null",
        "-o", f"Dir::State::lists={lists}/lists", "-o", f"Dir::Cache={lists}/cache", "-qq",
    ]
    step(*own, "update")
    step(*own, "source", name, cwd=into)
    return next(path for path in into.glob(f"{name}-*") if path.is_dir())


def erofsfuse() -> Path:
    apt_install(EROFS_NEEDS)
    warn(f"building erofsfuse from the Debian source of {EROFS_SUITE}")
    making = CACHE / "making"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    tree = source_package("erofs-utils", EROFS_SUITE, making)
    step("autoreconf", "-fi", cwd=tree)
    step("./configure", *EROFS_OPTIONS, "CFLAGS=-O2", cwd=tree)
    step("make", f"-j{os.cpu_count()}", cwd=tree)
    built = CACHE / "erofsfuse/bin/erofsfuse"
    built.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(tree / "fuse/erofsfuse", built)
    version_file(built).write_text(f"erofsfuse of {tree.name}, built from Debian's source\n")
    shutil.rmtree(making)
    return built


# PyPI.


def python_package(name: str) -> Path:
    warn(f"installing {name} from PyPI")
    apt_install(["libfuse3-3"])
    room = CACHE / name
    step(sys.executable, "-m", "venv", room)
    step(room / "bin/pip", "install", "-q", name)
    return room / "bin" / name
