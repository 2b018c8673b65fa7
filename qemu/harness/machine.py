"""A guest: its command line, its line to us, QMP, and its end."""

import json
import queue
import shlex
import socket
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

from . import debian, disks, filesystems
from .accelerator import accelerator, emulator
from .initramfs import Archive
from .kernels import kernel
from .outcome import Failed, Skipped
from .places import GUEST
from .program import program

# A guest that says nothing for that long hangs. Far more than any case takes, even
# emulated on a busy machine.
SILENCE_SECONDS = 240


@dataclass
class Setup:
    """What a guest is made of."""

    disks: list[disks.Disk]
    # A script for busybox's shell, with the words of guest/words.
    script: str
    kernel: str = "cloud"
    memory_mib: int = 256
    # The destination's file system, which has the label that filesystems.label() says.
    filesystem: str | None = None
    # Whether the destination is the guest's root (as in live-bootstrap) or on /external.
    is_root: bool = True
    mount_options: str = "rw"
    modules: list[str] = field(default_factory=list)
    # In place of ours: another one, which looks after itself.
    initramfs: Path | None = None
    # Whether it gets the build for boot images, which has fewer commands.
    bare: bool = False
    # More of the kernel's command line, more of QEMU's.
    append: str = ""
    arguments: list[str] = field(default_factory=list)
    # More for the script to find in /case: name and bytes.
    files: dict[str, bytes] = field(default_factory=dict)


class Machine:
    """A running guest. As a context manager its power is cut at the end."""

    def __init__(self, setup: Setup, directory: Path, name: str = "guest"):
        self.said: dict[str, str] = {}
        self.console = directory / f"{name}.console.log"
        self._name = name
        self._lines: queue.Queue[str | None] = queue.Queue()
        qemu = emulator()
        system = kernel(setup.kernel)
        initramfs = setup.initramfs
        if initramfs is None:
            initramfs = directory / f"{name}.cpio"
            initramfs.write_bytes(_initramfs(setup, system))
        ours, theirs = socket.socketpair()
        self._qmp = Qmp(ours)
        words = [qemu, "-accel", accelerator(), "-machine", "pc", "-m", str(setup.memory_mib)]
        words += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        words += ["-chardev", f"file,id=console,path={self.console}", "-serial", "chardev:console"]
        words += ["-chardev", "stdio,id=line,signal=off", "-serial", "chardev:line"]
        words += ["-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"]
        words += ["-kernel", str(system.image), "-initrd", str(initramfs)]
        # An emulated timer on a busy machine comes too late for the kernel's check of it.
        words += ["-append", f"console=ttyS0 panic=-1 no_timer_check {setup.append}".strip()]
        words += disks.arguments(setup.disks) + setup.arguments
        (directory / f"{name}.command").write_text(shlex.join(words) + "\n")
        self._errors = directory / f"{name}.qemu.log"
        with open(self._errors, "wb") as errors:
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, pass_fds=[theirs.fileno()]
            )
        theirs.close()
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_) -> None:
        self.cut()

    def cut(self) -> None:
        """Cuts the power: QEMU is killed, and what its guest had not written is gone."""
        self._process.kill()
        self._process.wait()
        self._qmp.close()

    def verdict(self, silence: float = SILENCE_SECONDS) -> dict[str, str]:
        """Waits for it; what was said until then. Fails or skips as the guest says."""
        while not self._passes(self._next(silence)):
            pass
        return self.said

    def ended(self) -> bool:
        """Whether it has passed already, or does within two milliseconds."""
        try:
            return self._passes(self._heard(self._lines.get(timeout=0.002)))
        except queue.Empty:
            return False

    def hear(self, key: str, silence: float = SILENCE_SECONDS) -> str:
        """Waits until the guest says `key`; its value."""
        while key not in self.said:
            word, _, rest = self._next(silence).partition(" ")
            if word != "SAY":
                raise Failed(f"the guest says {word} {rest} before it says {key} (its console: {self.console})")
        return self.said[key]

    def tell(self, line: str) -> None:
        """A line for the guest's `hear`."""
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def qmp(self, command: str, **arguments) -> dict:
        """A command to QEMU itself, and what it returns."""
        return self._qmp.command(command, arguments)

    def _listen(self) -> None:
        for raw in self._process.stdout:
            line = raw.decode(errors="replace").strip()
            if line.startswith("case: "):
                self._lines.put(line.removeprefix("case: "))
        self._lines.put(None)

    def _passes(self, line: str) -> bool:
        word, _, rest = line.partition(" ")
        if word == "FAIL":
            raise Failed(f"the guest says: {rest} (its console: {self.console})")
        if word == "SKIP":
            raise Skipped(rest)
        return word == "PASS"

    def _next(self, silence: float) -> str:
        try:
            return self._heard(self._lines.get(timeout=silence))
        except queue.Empty:
            raise Failed(f"no word from the guest in {silence:.0f} s (its console: {self.console})") from None

    def _heard(self, line: str | None) -> str:
        if line is None:
            self._process.wait()
            said = self._errors.read_text(errors="replace").strip()
            why = f": {said}" if said else f" (its console: {self.console})"
            raise Failed(f"QEMU ended with {self._process.returncode} before the guest's verdict{why}")
        word, _, rest = line.partition(" ")
        if word == "SAY":
            key, _, value = rest.partition(" ")
            self.said[key] = value
        return line


class Qmp:
    """QEMU's own protocol, over one end of a socket pair."""

    def __init__(self, end: socket.socket):
        self._socket = end
        self._stream = None

    def command(self, name: str, arguments: dict) -> dict:
        if self._stream is None:
            self._stream = self._socket.makefile("rwb")
            self._stream.readline()
            self._ask("qmp_capabilities", {})
        return self._ask(name, arguments)

    def close(self) -> None:
        if self._stream:
            self._stream.close()
        self._socket.close()

    def _ask(self, name: str, arguments: dict) -> dict:
        self._stream.write(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        self._stream.flush()
        while True:
            line = self._stream.readline()
            if not line:
                raise Failed(f"QEMU ended while it was asked {name}")
            answer = json.loads(line)
            if "error" in answer:
                raise Failed(f"QEMU refuses {name}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]


def _initramfs(setup: Setup, system) -> bytes:
    archive = Archive()
    archive.program("init", (GUEST / "init").read_bytes())
    archive.character_device("dev/console", 5, 1)
    archive.character_device("harness/line", 4, 65)
    _programs(archive, system, setup.bare)
    wanted = disks.modules(setup.disks) + filesystems.MODULES.get(setup.filesystem, []) + setup.modules
    loaded = system.modules(wanted)
    for name, data in loaded.items():
        archive.file(f"harness/modules/{name}.ko", data)
    archive.file("harness/modules/order", "".join(f"{name}\n" for name in loaded).encode())
    settings = {
        "DEVICES": sum(1 + disk.partitions for disk in setup.disks),
        "FILESYSTEM": setup.filesystem or "",
        "LABEL": filesystems.label(setup.filesystem),
        "MOUNT_OPTIONS": setup.mount_options,
        "ROOT": "disk" if setup.is_root else "initramfs",
    }
    lines = [f"{key}={shlex.quote(str(value))}\n" for key, value in settings.items()]
    archive.file("harness/case/settings", "".join(lines).encode())
    archive.file("harness/case/words", (GUEST / "words").read_bytes())
    archive.file("harness/case/script", setup.script.encode())
    for name, data in setup.files.items():
        archive.program(f"harness/case/{name}", data)
    return archive.bytes()


def _programs(archive: Archive, system, bare: bool) -> None:
    busybox = debian.unpacked("busybox-static", system.architecture)
    # /bin is a symlink to usr/bin in newer packages.
    path = next(p for p in (busybox / "bin/busybox", busybox / "usr/bin/busybox") if p.exists())
    archive.program("bin/busybox", path.read_bytes())
    applets = subprocess.run([path, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            archive.symlink(f"bin/{applet}", "busybox")
    archive.program("bin/lbpayload", program(system.program, bare).read_bytes())
    archive.symlink("bin/payload-import", "lbpayload")
