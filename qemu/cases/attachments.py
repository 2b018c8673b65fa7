"""Where the payload is among the machine's disks, and what else is there."""

import shutil

from harness import images
from harness.case import case
from harness.disks import Disk
from harness.filesystems import Destination
from harness.images import GIB, MIB
from harness.lab import IMPORT, imported_from
from harness.machine import Setup


def _attached(lab, others, payload, source: str, **how) -> None:
    """Boots with these disks behind the destination; the payload is to come from `source`."""
    destination = lab.destination(sector=how.get("destination_sector", 512))
    imported_from(lab.boot(destination, others, **how), source)
    lab.holds(destination, payload.files)


@case("third-disk", "the payload is on the third disk, on IDE, after a disk with a file system", quick=True)
def third_disk(lab):
    payload, other = lab.payload(), lab.destination("ext4", 16 * MIB, label="other")
    disks = [Disk(other.path, "ide"), Disk(payload.path, "ide")]
    # Which of the three is sda is for the kernel's threads to decide.
    _attached(lab, disks, payload, "/dev/sd", destination_bus="ide")


@case("partition", "the payload is in the second partition of the boot disk", quick=True)
def partition(lab):
    _partition(lab, "virtio-blk", "/dev/vda2")


@case("partition-nvme", "the same on NVMe, where partitions have different names")
def partition_nvme(lab):
    _partition(lab, "nvme", "/dev/nvme0n1p2")


def _partition(lab, bus: str, source: str) -> None:
    payload, destination = lab.payload(), lab.destination()
    disk = lab.directory / "disk.img"
    offset, _ = images.partitioned(disk, [destination.path, payload.path])
    with lab.machine(Setup([Disk(disk, bus, partitions=2)], IMPORT, filesystem="ext3")) as machine:
        imported_from(machine.verdict(), source)
    lab.holds(Destination(disk, "ext3", offset, destination.size), payload.files)


@case("two-candidates", "two disks with a payload: refused with exit status 4, nothing written; works with `--device`", quick=True)
def two_candidates(lab):
    payload, destination = lab.payload(), lab.destination()
    copied = lab.directory / "copy.img"
    shutil.copy(payload.path, copied)
    script = """
        payload-import --mount-proc
        exits 4 lbpayload import "$DEST"
        says /dev/vdb; says /dev/vdc; says --device
        [ -z "$(ls -A /external)" ] || fail "a refused import wrote something"
        with_nodes
        exits 0 lbpayload import --device /dev/vdc "$DEST"
        pass
    """
    lab.boot(destination, [Disk(payload.path), Disk(copied)], script)
    lab.holds(destination, payload.files)


@case("none", "no payload on any disk: exit status 3, the checked devices are listed, nothing written", quick=True)
def none(lab):
    destination = lab.destination()
    script = """
        payload-import --mount-proc
        exits 3 lbpayload import "$DEST"
        says "2 devices from /proc/partitions"
        exits 2 payload-import --from-proc "$DEST"
        exits 2 payload-import "$DEST"
        pass
    """
    lab.boot(destination, [Disk(lab.blank())], script)
    lab.holds(destination, {})


@case("read-only", "the payload's disk is read-only")
def read_only(lab):
    payload = lab.payload()
    _attached(lab, [Disk(payload.path, read_only=True)], payload, "/dev/vdb")


@case("large-disk", "a sparse disk of 64 GiB with the payload at its start")
def large_disk(lab):
    payload = lab.payload(size=64 * GIB)
    _attached(lab, [Disk(payload.path)], payload, "/dev/vdb")


@case("early-dialect", "a payload of the early dialect (u32)")
def early_dialect(lab):
    payload = lab.payload(dialect="u32")
    _attached(lab, [Disk(payload.path)], payload, "/dev/vdb")


@case("cut-short", "a disk that ends before its payload ends: refused, nothing written")
def cut_short(lab):
    payload, destination = lab.payload(), lab.destination()
    images.resize(payload.path, payload.bytes - MIB)
    script = """
        payload-import --mount-proc
        exits 3 lbpayload import "$DEST"
        says /dev/vdb; says corrupt
        with_nodes
        exits 1 lbpayload import --device /dev/vdb "$DEST"
        exits 1 lbpayload verify /dev/vdb
        exits 1 payload-import --device /dev/vdb "$DEST"
        pass
    """
    lab.boot(destination, [Disk(payload.path)], script)
    lab.holds(destination, {})


@case("sectors-4096", "both disks have sectors of 4096 bytes, the payload is padded to a whole sector")
def sectors_4096(lab):
    payload = lab.payload()
    images.resize(payload.path, -(-payload.bytes // 4096) * 4096)
    _attached(lab, [Disk(payload.path, sector=4096)], payload, "/dev/vdb", destination_sector=4096)


@case("sectors-4096-nvme", "an NVMe disk with sectors of 4096 bytes, larger than the payload")
def sectors_4096_nvme(lab):
    payload = lab.payload(size=64 * MIB)
    _attached(lab, [Disk(payload.path, "nvme", sector=4096)], payload, "/dev/nvme0n1")


@case("sectors-4096-scsi", "a virtio SCSI disk with sectors of 4096 bytes")
def sectors_4096_scsi(lab):
    payload = lab.payload(size=64 * MIB)
    _attached(lab, [Disk(payload.path, "virtio-scsi", sector=4096)], payload, "/dev/sd")


@case("sectors-4096-usb", "a USB stick with sectors of 4096 bytes")
def sectors_4096_usb(lab):
    payload = lab.payload(size=64 * MIB)
    _attached(lab, [Disk(payload.path, "usb", sector=4096)], payload, "/dev/sd", kernel="full")


@case("sectors-512-odd", "an image that ends inside a sector of 512 bytes")
def sectors_512_odd(lab):
    payload = lab.payload()
    assert payload.bytes % 512, "the sample ends inside a sector"
    _attached(lab, [Disk(payload.path)], payload, "/dev/vdb")


@case("sectors-4096-odd", "an image that ends inside a sector of 4096 bytes, so its last bytes are not visible: refused, and the message says how to pad it")
def sectors_4096_odd(lab):
    payload, destination = lab.payload(), lab.destination()
    assert payload.bytes % 4096, "the sample ends inside a sector"
    script = """
        payload-import --mount-proc
        exits 3 lbpayload import "$DEST"
        says "truncate -s %4096"
        pass
    """
    lab.boot(destination, [Disk(payload.path, sector=4096)], script)
    lab.holds(destination, {})
