"""An image, exported over the network by somebody else's server on this machine."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from .outcome import Failed, NotSetUp

# As QEMU's own network has it, this machine is there for a guest.
HOST = "10.0.2.2"
NETWORK = ["-netdev", "user,id=network", "-device", "virtio-net-pci,netdev=network"]
# For the script of a guest that has the network.
ETH0_UP = """
    ip link set lo up
    ip addr add 10.0.2.15/24 dev eth0
    ip link set eth0 up
"""
TARGET = "iqn.2026-11.example:payload"

# Hands over a socket that listens: as descriptor 3, to the process that is told so.
_AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Export:
    """A running server, and the port of this machine where it is reached."""

    def __init__(self, server: subprocess.Popen | None, port: int):
        self._server = server
        self.port = port

    def connections(self) -> int:
        """Connections that are open to the port."""
        at = f":{self.port:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(row[1].endswith(at) and row[3] == "01" for row in rows)

    def processor_seconds(self) -> float | None:
        """What the server has used until now; None if it runs in a guest."""
        if self._server is None:
            return None
        fields = Path(f"/proc/{self._server.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A port that nothing listens on now, and that the system gives to nobody else soon."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@contextmanager
def nbd(image: Path):
    """Serves an image read-only by qemu-nbd."""
    _needs("qemu-nbd")
    # It is handed the socket as by systemd, so that the system chooses the port.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        words = [sys.executable, "-c", _AS_SYSTEMD, str(listening.fileno()), "qemu-nbd"]
        words += ["--read-only", "--persistent", "--shared=0", "--format=raw", str(image)]
        server = subprocess.Popen(words, pass_fds=[listening.fileno()], stderr=subprocess.PIPE)
    with _running("qemu-nbd", server):
        yield Export(server, port)


@contextmanager
def iscsi(image: Path):
    """Serves an image read-only by tgtd, as logical unit 1 of TARGET."""
    _needs("tgtd", "tgtadm")
    port = free_port()
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory() as directory:
        environment = os.environ | {"TGT_IPC_SOCKET": f"{directory}/socket"}
        words = ["tgtd", "--foreground", "--iscsi", f"portal=127.0.0.1:{port}"]
        server = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

        def administer(*words: str) -> None:
            words = ["tgtadm", "--lld", "iscsi", "--op", *words]
            done = subprocess.run(words, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise Failed(f"{' '.join(words)}: {done.stderr.strip()}")

        with _running("tgtd", server):
            while not _answers(port):
                if server.poll() is not None:
                    raise Failed("tgtd ended")
            administer("new", "--mode", "target", "--tid", "1", "-T", TARGET)
            unit = ["--mode", "logicalunit", "--tid", "1", "--lun", "1"]
            administer("new", *unit, "--backing-store", str(image))
            administer("update", *unit, "--params", "readonly=1")
            administer("bind", "--mode", "target", "--tid", "1", "--initiator-address", "ALL")
            yield Export(server, port)


def _needs(*programs: str) -> None:
    for program in programs:
        if not shutil.which(program):
            raise NotSetUp(f"{program} is not installed; scripts/setup qemu installs it, as root")


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


@contextmanager
def _running(name: str, server: subprocess.Popen):
    """Ends the server with the `with`; fails if it ended before."""
    try:
        yield
        if server.poll() is not None:
            raise Failed(f"{name} ended: {server.stderr.read().decode(errors='replace')}")
    finally:
        # tgtd does not end at SIGTERM while it has targets.
        server.kill()
        server.wait()
