"""What a case works with: payloads, destinations, guests, and a look at what they left."""

import json
from pathlib import Path

from . import filesystems, images
from .disks import Disk
from .filesystems import Destination
from .images import MIB, Payload
from .machine import Machine, Setup
from .outcome import Failed

# What a machine as live-bootstrap's does: nothing is mounted but the root, /dev is empty.
IMPORT = """
payload-import --mount-proc
lbpayload import --json "$DEST" > /report
say report "$(cat /report)"
pass
"""


class Lab:
    """A case's own directory, and what can be made in it."""

    def __init__(self, directory: Path):
        self.directory = directory

    def payload(self, name: str = "payload", files=None, seed: int = 1, size: int | None = None, **how) -> Payload:
        """An image of noise; `size` is the disk's, the payload's own unless told."""
        path = self.directory / f"{name}.img"
        payload = images.write(path, files if files is not None else images.sample(seed), seed, **how)
        if size is not None:
            images.resize(path, size)
        return payload

    def destination(self, kind: str = "ext3", size: int = 320 * MIB, name: str = "", **how) -> Destination:
        """An empty file system on an image of its own."""
        return filesystems.make(self.directory / f"{name or kind}.img", kind, size, **how)

    def blank(self, name: str = "blank", size: int = 8 * MIB) -> Path:
        """A disk of zeroes."""
        path = self.directory / f"{name}.img"
        path.touch()
        images.resize(path, size)
        return path

    def machine(self, setup: Setup, name: str = "guest") -> Machine:
        """A guest to be talked with; use it in a `with`."""
        return Machine(setup, self.directory, name)

    def boot(self, destination: Destination | None, others: list[Disk], script: str = IMPORT, **how) -> dict[str, str]:
        """Boots with the destination as first disk, waits for PASS, and cuts the power.

        Nothing is unmounted or synced in the guest: what it said it had done must be on
        its disks by then.
        """
        attached = list(others)
        if destination:
            bus, sector = how.pop("destination_bus", "virtio-blk"), how.pop("destination_sector", 512)
            attached.insert(0, Disk(destination.path, bus, sector))
            how.setdefault("filesystem", destination.kind)
        with self.machine(Setup(attached, script, **how)) as machine:
            return machine.verdict()

    def handed_over(self, disk: Path, wanted: dict[str, tuple[int, str]]) -> None:
        """Fails unless the guest's `hand_over` wrote these files to that disk."""
        filesystems.compare(filesystems.read_archive(disk), wanted, "what the guest handed over")

    def holds(self, destination: Destination, wanted: dict[str, tuple[int, str]]) -> None:
        """Fails unless the destination's distfiles are these files and nothing else."""
        found = filesystems.read_back(destination)
        filesystems.compare(found, wanted, f"{destination.path.name}, read back")


def imported_from(said: dict[str, str], prefix: str) -> None:
    """Fails unless the guest's report names a source of that kind."""
    report = json.loads(said["report"])
    if not report["source"].startswith(prefix):
        raise Failed(f"imported from {report['source']}, expected {prefix}…")
