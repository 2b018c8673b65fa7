"""Disks as QEMU attaches them, and what the guest's kernel must load for that."""

import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Bus:
    """How QEMU attaches a disk: {n} is its number on the bus, {node} what it shows."""

    modules: list[str]
    device: str
    # What comes before the first disk of the bus.
    controllers: tuple[str, ...] = ()
    # What the guest calls such a disk.
    name: str = "sd"


BUSES = {
    "virtio-blk": Bus(["virtio_pci", "virtio_blk"], "virtio-blk-pci,drive={node}", name="vd"),
    "virtio-scsi": Bus(
        ["virtio_pci", "virtio_scsi", "sd_mod"], "scsi-hd,bus=scsi.0,drive={node}", ("virtio-scsi-pci,id=scsi",)
    ),
    # The two channels that the machine has, each with two drives.
    "ide": Bus(["ata_piix", "sd_mod"], "ide-hd,bus=ide.{channel},unit={unit},drive={node}"),
    "ahci": Bus(["ahci", "sd_mod"], "ide-hd,bus=ahci.{n},drive={node}", ("ich9-ahci,id=ahci",)),
    "nvme": Bus(["nvme"], "nvme,serial=nvme{n},drive={node}", name="nvme"),
    "usb": Bus(["xhci_pci", "usb_storage", "sd_mod"], "usb-storage,bus=xhci.0,drive={node}", ("qemu-xhci,id=xhci",)),
    "uas": Bus(
        ["xhci_pci", "uas", "sd_mod"],
        "scsi-hd,bus=uas.0,drive={node}",
        ("qemu-xhci,id=xhci", "usb-uas,id=uas,bus=xhci.0"),
    ),
    # One card; QEMU wants it as large as a power of two.
    "sd": Bus(["sdhci_pci", "mmc_block"], "sd-card,bus=sd-bus,drive={node}", ("sdhci-pci",), name="mmcblk"),
}


@dataclass
class Disk:
    """An image on a bus. `node` replaces the file below it (blkdebug, nbd, ...)."""

    path: Path | None = None
    bus: str = "virtio-blk"
    sector: int = 512
    read_only: bool = False
    partitions: int = 0
    # QEMU's name for the device, for device_del and the like; `node-NAME` shows its bytes.
    name: str = ""
    # A protocol node as blockdev-add takes it.
    node: dict = field(default_factory=dict)


def arguments(disks: list[Disk]) -> list[str]:
    """QEMU's arguments for them, in order."""
    words, used = [], {}
    for number, disk in enumerate(disks):
        disk.name = disk.name or f"disk{number}"
        bus = BUSES[disk.bus]
        n = used.get(disk.bus, 0)
        used[disk.bus] = n + 1
        file = disk.node or {"driver": "file", "filename": str(disk.path)}
        node = {"driver": "raw", "node-name": f"node-{disk.name}", "read-only": disk.read_only, "file": file}
        words += ["-blockdev", json.dumps(node)]
        for controller in bus.controllers if n == 0 else ():
            words += ["-device", controller]
        device = bus.device.format(n=n, channel=n // 2, unit=n % 2, node=f"node-{disk.name}")
        if disk.bus != "sd":
            device += f",logical_block_size={disk.sector},physical_block_size={disk.sector}"
        words += ["-device", f"{device},id={disk.name}"]
    return words


def modules(disks: list[Disk]) -> list[str]:
    """What the guest loads to see them."""
    return [module for disk in disks for module in BUSES[disk.bus].modules]
