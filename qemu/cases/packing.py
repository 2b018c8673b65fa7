"""Disks that are packed onto: what was there, fakes, and power failures."""

import random
import shutil
import subprocess
from pathlib import Path

from harness import filesystems, images, log_writes
from harness.case import case
from harness.disks import Disk
from harness.images import KIB, MIB
from harness.machine import Setup
from harness.nbdkit import served
from harness.outcome import Failed

_SEED = 14

# The files to pack, for the script in /case/input.
_INPUT = {f"file-{n}": random.Random(n).randbytes(size) for n, size in enumerate((0, 100, 3 * MIB + 5, 70_001))}

_PACK = """
    payload-import --mount-proc
    with_nodes
    exits 0 lbpayload pack -o {device} --force /case/input
    says 'found on it: {found}'
    exits 0 lbpayload verify {device}
    pass
"""


def _image() -> bytes:
    """The payload of the input, as FORMAT.md has it."""
    image = b"LBPAYLD1" + len(_INPUT).to_bytes(8, "little")
    for name, data in sorted(_INPUT.items()):
        image += len(name).to_bytes(8, "little") + len(data).to_bytes(8, "little") + name.encode() + data
    return image


def _files() -> dict[str, bytes]:
    return {f"input/{name}": data for name, data in _INPUT.items()}


def _signatures(path: Path) -> str:
    """What blkid finds on an image."""
    done = subprocess.run(["blkid", "-p", path], capture_output=True, text=True)
    if done.returncode not in (0, 2):
        raise Failed(f"blkid: {done.stderr}")
    return done.stdout


@case("pack-old-signatures", "pack onto a disk with partitions and onto one with XFS: the host finds the payload and no old signature", quick=True)
def old_signatures(lab):
    first = filesystems.make(lab.directory / "first.img", "ext4", 16 * MIB, label="photos")
    disk, whole = lab.directory / "disk.img", lab.directory / "whole.img"
    images.partitioned(disk, [first.path])
    filesystems.make(whole, "xfs", 320 * MIB, label="films")
    pack = _PACK.replace("payload-import --mount-proc\n    with_nodes\n", "").replace("pass\n", "")
    script = """
        payload-import --mount-proc
        with_sys
        with_nodes
    """
    script += pack.format(device="/dev/vda", found='ext4 "photos" on vda1')
    # The kernel has dropped the partition of the old table.
    script += "[ ! -e /sys/block/vda/vda1 ] || fail partition is still there\n"
    script += pack.format(device="/dev/vdb", found='xfs "films"')
    script += "pass\n"
    lab.boot(None, [Disk(disk, partitions=1), Disk(whole)], script, files=_files())
    for path in (disk, whole):
        with open(path, "rb") as image:
            if image.read(len(_image())) != _image():
                raise Failed(f"{path.name} does not hold the payload")
        if found := _signatures(path):
            raise Failed(f"blkid still finds {found}")


# Serves nbdkit's requests: a disk that claims $CLAIMED bytes and stores $REAL.
_FAKE = """#!/bin/sh
at() { echo $(($1 % REAL)); }
case $1 in
get_size) echo "$CLAIMED" ;;
can_write | can_flush) exit 0 ;;
thread_model) echo serialize_all_requests ;;
pread) dd if="$STORE" iflag=skip_bytes,count_bytes,fullblock skip="$(at "$4")" count="$3" bs=1M status=none ;;
pwrite) dd of="$STORE" oflag=seek_bytes iflag=fullblock seek="$(at "$4")" bs=1M conv=notrunc status=none ;;
flush) ;;
*) exit 2 ;;
esac
"""


@case("pack-fake-stick", "a USB stick that claims 1 GiB and repeats what is behind 2 MiB: pack says so, and the stick holds no payload")
def fake_stick(lab):
    script = """
        payload-import --mount-proc
        with_nodes
        exits 1 lbpayload pack -o /dev/sda --force /case/input
        says "is smaller than it claims, it repeats what is behind 2.0 MiB"
        exits 3 lbpayload probe /dev/sda
        pass
    """
    plugin, store = lab.directory / "plugin", lab.blank("store", 2 * MIB)
    plugin.write_text(_FAKE)
    plugin.chmod(0o755)
    words = ["--filter=blocksize", "sh", plugin, "maxdata=64K"]
    with served(*words, CLAIMED=str(1024 * MIB), REAL=str(2 * MIB), STORE=str(store)) as node:
        lab.boot(None, [Disk(bus="usb", node=node)], script, kernel="full", files=_files())


@case("power-pack", "power failure with lost write caches while a disk with ext4 is packed: at each flush and in between there is the complete old file system, no signature, or the complete payload")
def power_pack(lab):
    chance = random.Random(_SEED)
    disk = filesystems.make(lab.directory / "disk.img", "ext4", 64 * MIB, label="photos").path
    state, tried, path = (lab.directory / name for name in ("state.img", "tried.img", "writes.log"))
    shutil.copy(disk, state)
    script = _PACK.format(device="/dev/vda", found='ext4 "photos"')
    lab.boot(None, [Disk(node=log_writes.node(disk, path))], script, files=_files())
    log = log_writes.Log(path)
    flushes = [n for n, write in enumerate(log.writes) if write.is_flush]
    seen = {"old file system": 0, "nothing": 0, "payload": 0}
    at = 0
    for end in [*flushes, len(log.writes)]:
        between = log.writes[at:end]
        for share in [0, *(0.1 * n for n in range(1, 10)), 1] if between else [0]:
            some = [write for write in between if chance.random() < share]
            subprocess.run(["cp", "--sparse=always", state, tried], check=True)
            log.apply(some, tried)
            seen[_holds(tried, f"with {len(some)} of {len(between)} writes before {end}")] += 1
        log.apply(between, state)
        at = end
    if _holds(state, "at the end") != "payload" or not all(seen.values()):
        raise Failed(f"the payload is not complete, or a state is missing: {seen}")
    points = ", ".join(f"{count} with {what}" for what, count in seen.items())
    return f"{len(log.writes)} writes, {len(flushes)} flushes; {points}"


def _holds(disk: Path, where: str) -> str:
    """What a disk holds. It must be complete."""
    image = _image()
    with open(disk, "rb") as opened:
        start = opened.read(len(image))
    if start[:8] == image[:8]:
        if start != image:
            raise Failed(f"{where}: a payload with other bytes")
        return "payload"
    found = _signatures(disk)
    if not found:
        return "nothing"
    checked = subprocess.run(["e2fsck", "-fn", disk], capture_output=True, text=True)
    if 'TYPE="ext4"' not in found or checked.returncode:
        raise Failed(f"{where}: {found}\n{checked.stdout}")
    return "old file system"
