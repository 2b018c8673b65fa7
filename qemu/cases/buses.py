"""The payload's disk on each bus: found by probing, read and written out whole."""

from harness.case import case
from harness.disks import BUSES, Disk
from harness.lab import imported_from


def _on(lab, bus: str, size: int | None = None, **how) -> None:
    payload, destination = lab.payload(size=size), lab.destination()
    said = lab.boot(destination, [Disk(payload.path, bus)], **how)
    imported_from(said, f"/dev/{BUSES[bus].name}")
    lab.holds(destination, payload.files)


@case("virtio-blk", "a virtio disk", quick=True)
def virtio_blk(lab):
    _on(lab, "virtio-blk")


@case("virtio-scsi", "a virtio SCSI disk")
def virtio_scsi(lab):
    _on(lab, "virtio-scsi")


@case("ide", "both disks on IDE, as in live-bootstrap under QEMU", quick=True)
def ide(lab):
    _on(lab, "ide", destination_bus="ide")


@case("ahci", "both disks on AHCI (SATA)")
def ahci(lab):
    _on(lab, "ahci", destination_bus="ahci", kernel="full")


@case("nvme", "an NVMe disk", quick=True)
def nvme(lab):
    _on(lab, "nvme")


@case("usb", "a USB stick (usb-storage on xHCI)")
def usb(lab):
    _on(lab, "usb", kernel="full")


@case("uas", "a USB disk that speaks SCSI (UAS on xHCI)")
def uas(lab):
    _on(lab, "uas", kernel="full")


@case("sd", "an SD card (SDHCI)")
def sd(lab):
    _on(lab, "sd", size=32 << 20, kernel="full")
