"""The payload's disk on each bus, found by probing, read and written out whole."""

from harness.case import case
from harness.disks import BUSES, Disk
from harness.lab import imported_from


def _on(lab, bus: str, **how) -> None:
    payload, destination = lab.payload(), lab.destination()
    said = lab.boot(destination, [Disk(payload.path, bus)], **how)
    imported_from(said, f"/dev/{BUSES[bus].name}")
    lab.holds(destination, payload.files)


@case("virtio-blk", "a virtio disk", quick=True)
def virtio_blk(lab):
    _on(lab, "virtio-blk")
