"""Machines that lack something, and what is called on them."""

from harness.case import case
from harness.disks import Disk
from harness.images import GIB, MIB
from harness.lab import IMPORT, imported_from
from harness.outcome import Failed


def _runs(lab, script: str, source: str = "/dev/vdb", **how) -> None:
    payload, destination = lab.payload(), lab.destination()
    imported_from(lab.boot(destination, [Disk(payload.path)], script, **how), source)
    lab.holds(destination, payload.files)


@case("without-proc", "no /proc and no /sys, but nodes in /dev")
def without_proc(lab):
    _runs(lab, "with_nodes\n" + IMPORT.replace("payload-import --mount-proc\n", ""))


@case("without-nodes", "/proc and /sys, but no nodes in /dev")
def without_nodes(lab):
    _runs(lab, "with_proc\nwith_sys\n" + IMPORT)


@case("without-anything", "no /proc, no /sys, no nodes: refused with advice; with /proc alone the import works", quick=True)
def without_anything(lab):
    refused = """
        exits 1 lbpayload import "$DEST"
        says "payload-import --mount-proc"
    """
    _runs(lab, refused + IMPORT)


@case("with-everything", "/proc, /sys and nodes, as in a distribution")
def with_everything(lab):
    _runs(lab, "with_proc\nwith_sys\nwith_nodes\n" + IMPORT)


@case("little-memory", "64 MiB of free memory, a payload of 130 MB with a file of 100 MB", quick=True)
def little_memory(lab):
    _little_memory(lab, "virtio-blk")


@case("little-memory-i686", "the same on a 32-bit kernel, on IDE")
def little_memory_i686(lab):
    _little_memory(lab, "ide", kernel="686")


def _little_memory(lab, bus: str, **how) -> None:
    files = [("large.tar", 100_000_007), ("second.tar", 20_000_003)] + [(f"small-{n:03}", n * 53) for n in range(500)]
    payload, destination = lab.payload(files=files), lab.destination()
    script = "leave_memory 64\n" + IMPORT
    said = lab.boot(destination, [Disk(payload.path, bus)], script, destination_bus=bus, memory_mib=192, **how)
    if int(said["available"]) > 64 * 1024:
        raise Failed(f"{said['available']} KiB were left")
    lab.holds(destination, payload.files)


@case("bare", "the build for boot images with 16 MiB of free memory, a payload of 130 MB: `payload-import`, then verify")
def bare(lab):
    _bare(lab)


@case("bare-i686", "the same on a 32-bit kernel, on IDE, as in live-bootstrap's import")
def bare_i686(lab):
    _bare(lab, "ide", kernel="686")


def _bare(lab, bus: str = "virtio-blk", **how) -> None:
    files = [("large.tar", 100_000_007), ("second.tar", 20_000_003)] + [(f"small-{n:03}", n * 53) for n in range(500)]
    payload, destination = lab.payload(files=files), lab.destination()
    script = """
        leave_memory 16
        payload-import --mount-proc
        exits 0 payload-import --from-proc "$DEST"
        disk=$(lbpayload probe)
        exits 0 lbpayload verify "$disk"
        exits 0 lbpayload import --memory 4M --device "$disk" "$DEST"
        says "already in"
        exits 2 lbpayload mount "$disk" /mnt
        says "only some of the commands"
        pass
    """
    said = lab.boot(
        destination, [Disk(payload.path, bus)], script, destination_bus=bus, memory_mib=192, bare=True, **how
    )
    if int(said["available"]) > 16 * 1024:
        raise Failed(f"{said['available']} KiB were left")
    lab.holds(destination, payload.files)


@case("i686", "a 32-bit kernel and program, both disks on IDE, as in live-bootstrap's import")
def i686(lab):
    payload, destination = lab.payload(), lab.destination()
    said = lab.boot(destination, [Disk(payload.path, "ide")], kernel="686", destination_bus="ide")
    imported_from(said, "/dev/sd")
    lab.holds(destination, payload.files)


@case("i686-large", "a 32-bit kernel and program, a file of 5 GiB and another file after it: import and mount")
def i686_large(lab):
    # A hole in the image, so that only the guest has the work of so many bytes.
    files = [("hole", 5 * GIB + 5), ("behind", 100_003)]
    payload, destination = lab.payload(files=files, holes={"hole"}), lab.destination("ext4", 6 * GIB)
    script = """
        payload-import --mount-proc
        exits 0 lbpayload import "$DEST"
        with_nodes
        mknod /dev/fuse c 10 229
        exits 0 lbpayload mount "$(lbpayload probe)" /mnt
        cmp /mnt/behind "$DEST/behind"
        [ "$(stat -c %s /mnt/hole)" = 5368709125 ] || fail "the mount shows another size"
        [ "$(tail -c 70000 /mnt/hole | tr -d '\\0' | wc -c)" = 0 ] || fail "the mount shows other bytes"
        pass
    """
    disks = [Disk(payload.path, "ide")]
    lab.boot(destination, disks, script, kernel="686", destination_bus="ide", modules=["fuse"])
    lab.holds(destination, payload.files)


# The reference's script: --mount-proc, then --probe for what /proc/partitions lists,
# nodes made where they are missing, then --device.
_SCRIPT = """
    payload-import --mount-proc
    device=
    while read -r major minor blocks name; do
        case $name in
        "" | name) continue ;;
        esac
        [ -b "/dev/$name" ] || mknod -m 600 "/dev/$name" b "$major" "$minor"
        if payload-import --probe "/dev/$name"; then
            device=/dev/$name
            break
        fi
    done < /proc/partitions
    [ -n "$device" ] || fail "no device has the magic"
    exits 0 payload-import --device "$device" "$DEST"
    [ "$(sed -n 1p /output)" = "payload-import: reading $FILES files from $device" ] || fail "$(sed -n 1p /output)"
    [ "$(grep -c '^payload-import: ' /output)" = $((FILES + 1)) ] || fail "not a line for each file"
    pass
"""


@case("drop-in", "payload-import, called by a script similar to live-bootstrap's, on IDE", quick=True)
def drop_in(lab):
    payload, destination = lab.payload(), lab.destination()
    script = f"FILES={len(payload.files)}\n{_SCRIPT}"
    lab.boot(destination, [Disk(payload.path, "ide")], script, destination_bus="ide")
    lab.holds(destination, payload.files)


@case("drop-in-early", "the early calls `payload-import DEST` and `--from-proc DEST`: they mount /proc and probe")
def drop_in_early(lab):
    payload, destination = lab.payload(), lab.destination()
    script = """
        exits 0 payload-import "$DEST"
        mv "$DEST" /first
        exits 0 payload-import --from-proc "$DEST"
        diff -r /first "$DEST"
        pass
    """
    lab.boot(destination, [Disk(payload.path)], script)
    lab.holds(destination, payload.files)


@case("mount", "a FUSE mount of the disk: all files are read and sent to the host as an archive", quick=True)
def mount(lab):
    payload, handed = lab.payload(), lab.blank("handed", 64 * MIB)
    script = """
        with_nodes
        mknod /dev/fuse c 10 229
        exits 0 lbpayload mount /dev/vdb /mnt
        hand_over /mnt
        exits 1 cp /case/script /mnt/new
        exits 0 lbpayload unmount /mnt
        [ ! -e /mnt ] || fail "the mount point stayed"
        pass
    """
    lab.boot(None, [Disk(handed), Disk(payload.path)], script, modules=["fuse"])
    lab.handed_over(handed, payload.files)
