"""Many machines import from one export of somebody else's block engine."""

import os
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from harness import chroot
from harness.case import case
from harness.disks import Disk
from harness.images import MIB
from harness.lab import IMPORT, imported_from
from harness.machine import Setup
from harness.outcome import Failed, NotSetUp

_GUESTS = 8
_MEMORY_MIB = 160

# Hands over a socket that listens: as descriptor 3, to the process that is told so.
_AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execvp(sys.argv[2], sys.argv[2:])
"""


@contextmanager
def _export(lab, image: Path):
    """Serves an image read-only by qemu-nbd; gives the port on this machine."""
    if not shutil.which("qemu-nbd"):
        raise NotSetUp("qemu-nbd is not installed; scripts/setup qemu installs it, as root")
    # It is handed the socket as by systemd, so that the system chooses the port.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        words = [sys.executable, "-c", _AS_SYSTEMD, str(listening.fileno()), "qemu-nbd"]
        words += ["--read-only", "--persistent", "--shared=0", "--format=raw", str(image)]
        server = subprocess.Popen(words, pass_fds=[listening.fileno()], stderr=subprocess.PIPE)
    try:
        yield port
        if server.poll() is not None:
            raise Failed(f"qemu-nbd ended: {server.stderr.read().decode(errors='replace')}")
    finally:
        server.terminate()
        server.wait()


def _import_by_all(lab, payload, disks, script: str, source: str, **how) -> str:
    """All guests are at work before the first is asked how it went."""
    destinations = [lab.destination("ext3", 96 * MIB, name=f"guest-{n}") for n in range(_GUESTS)]
    machines = []
    try:
        for n, destination in enumerate(destinations):
            setup = Setup([Disk(destination.path), *disks()], script, "cloud", _MEMORY_MIB, "ext3", **how)
            machines.append(lab.machine(setup, f"guest-{n}"))
        for machine in machines:
            machine.hear("ready")
        for machine in machines:
            machine.tell("go")
        for machine in machines:
            imported_from(machine.verdict(), source)
    finally:
        for machine in machines:
            machine.cut()
    for destination in destinations:
        lab.holds(destination, payload.files)
    return f"{_GUESTS} guests of {_MEMORY_MIB} MiB, {_GUESTS * len(payload.files)} files checked, losses: none"


_WAIT = "say ready now\nhear\n"


@case("many-drives", "eight guests import at the same time from one read-only export of `qemu-nbd`, attached as a drive by QEMU")
def many_drives(lab):
    payload = lab.payload(files=_files())
    with _export(lab, payload.path) as port:
        server = {"type": "inet", "host": "127.0.0.1", "port": str(port)}
        nbd = {"driver": "nbd", "server": server}
        return _import_by_all(lab, payload, lambda: [Disk(node=nbd, read_only=True)], _WAIT + IMPORT, "/dev/vdb")


@case("many-nbd", "the same with the guests' own kernels: `nbd-client` attaches the export, and probe finds /dev/nbd0")
def many_nbd(lab):
    payload = lab.payload(files=_files())
    files = _nbd_client()
    with _export(lab, payload.path) as port:
        # 10.0.2.2 is this machine, as QEMU's own network has it.
        connect = f"""
            with_sys
            payload-import --mount-proc
            ip link set lo up
            ip addr add 10.0.2.15/24 dev eth0
            ip link set eth0 up
            mknod /dev/nbd0 b 43 0
            # Its own libraries, so that the guest needs none.
            /case/nbd/loader --library-path /case/nbd /case/nbd/nbd-client 10.0.2.2 {port} /dev/nbd0 -N ""
            while [ "$(cat /sys/block/nbd0/size)" = 0 ]; do usleep 50000; done
            rm /dev/nbd0
        """
        network = ["-netdev", "user,id=network", "-device", "virtio-net-pci,netdev=network"]
        modules = ["virtio_pci", "virtio_net", "nbd"]
        script = connect + _WAIT + IMPORT
        return _import_by_all(
            lab, payload, lambda: [], script, "/dev/nbd0", arguments=network, modules=modules, files=files
        )


def _files() -> list[tuple[str, int]]:
    return [("large.tar", 24_000_007)] + [(f"small-{n:03}", n * 97) for n in range(300)]


def _nbd_client() -> dict[str, bytes]:
    """Debian's nbd-client, with the libraries that it is linked to."""
    with chroot.debian() as root:
        listed = chroot.run(root, "ldd", "/usr/sbin/nbd-client")
        files = {"nbd/nbd-client": (root / "usr/sbin/nbd-client").read_bytes()}
        for word in listed.split():
            if word.startswith("/"):
                name = "loader" if "ld-linux" in word else os.path.basename(word)
                files[f"nbd/{name}"] = (root / word[1:]).read_bytes()
    return files
