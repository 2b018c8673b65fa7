"""The file systems that files are imported to."""

from harness import filesystems
from harness.case import case
from harness.disks import Disk
from harness.images import MIB
from harness.outcome import Failed


def _to(lab, kind: str, **how) -> None:
    payload, destination = lab.payload(), lab.destination(kind)
    lab.boot(destination, [Disk(payload.path)], **how)
    lab.holds(destination, payload.files)


@case("ext3", "ext3 as the root, on IDE, as in live-bootstrap")
def ext3(lab):
    _to(lab, "ext3", destination_bus="ide")


@case("ext4", "ext4 as the root")
def ext4(lab):
    _to(lab, "ext4")


@case("xfs", "XFS as the root")
def xfs(lab):
    _to(lab, "xfs")


@case("btrfs", "Btrfs as the root")
def btrfs(lab):
    _to(lab, "btrfs")


@case("vfat", "FAT mounted below a root in memory: import to it, and pack onto it", quick=True)
def vfat(lab):
    payload, destination = lab.payload(), lab.destination("vfat")
    script = """
        payload-import --mount-proc
        exits 0 lbpayload import "$DEST"
        exits 0 lbpayload pack -o /external/packed.img "$DEST"
        pass
    """
    lab.boot(destination, [Disk(payload.path)], script, is_root=False, mount_options="rw,utf8")
    lab.holds(destination, payload.files)
    with filesystems.files(destination) as external:
        # The same files in the same order make the same image.
        if (external / "packed.img").read_bytes() != payload.path.read_bytes():
            raise Failed("the packed image is not the one that was imported")


@case("tmpfs", "tmpfs: the files are sent to the host as an archive")
def tmpfs(lab):
    payload, handed = lab.payload(), lab.blank("handed", 64 * MIB)
    script = """
        mkdir /external
        mount -t tmpfs tmpfs /external
        payload-import --mount-proc
        exits 0 lbpayload import "$DEST"
        hand_over "$DEST"
        pass
    """
    lab.boot(None, [Disk(handed), Disk(payload.path)], script)
    lab.handed_over(handed, payload.files)
