"""Disks that fail, on either side, while files are imported."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

from harness import filesystems
from harness.case import case
from harness.disks import Disk
from harness.images import KIB, MIB
from harness.machine import Setup
from harness.outcome import Failed

SEED = 6
_EIO = 5


def _whole(found: dict, payload, where: str) -> int:
    """Fails unless all that is there is whole; how many files that are."""
    for name, it in found.items():
        if payload.files.get(name) != it:
            raise Failed(f"{where}: {name} is {it} instead of {payload.files.get(name)}")
    return len(found)


def _readable(payload, sectors: list[int]) -> dict:
    """The files of a u64 payload that can be read when these sectors of 512 bytes cannot."""
    readable, start = {}, 16
    for name, it in payload.files.items():
        data = start + 16 + len(name.encode())
        end = data + it[0]
        if _touched(sectors, start, data):
            # Nobody knows where the files behind a header are that cannot be read.
            break
        if not _touched(sectors, data, end):
            readable[name] = it
        start = end
    return readable


def _touched(sectors: list[int], start: int, end: int) -> bool:
    """Whether one of these sectors has a byte of that range."""
    return any(start < sector * 512 + 512 and sector * 512 < end for sector in sectors if start < end)


def _failing(path: Path, sectors: list[int], bus: str = "virtio-blk") -> Disk:
    """A disk that answers EIO for reads of these sectors."""
    bad = {"event": "none", "iotype": "read", "errno": _EIO, "once": False, "immediately": True}
    errors = [{**bad, "sector": sector} for sector in sectors]
    image = {"driver": "file", "filename": str(path)}
    return Disk(bus=bus, read_only=True, node={"driver": "blkdebug", "image": image, "inject-error": errors})


def _limited(disk: Disk, bytes_per_second: int) -> list[str]:
    """Has QEMU read that slowly from a disk; gives its arguments for that."""
    disk.node = {
        "driver": "throttle",
        "throttle-group": "limit",
        "file": {"driver": "file", "filename": str(disk.path)},
    }
    limits = {"bps-read": bytes_per_second}
    return ["-object", json.dumps({"qom-type": "throttle-group", "id": "limit", "limits": limits})]


def _limit(machine, bytes_per_second: int) -> None:
    """0 is none."""
    machine.qmp("qom-set", path="/objects/limit", property="limits", value={"bps-read": bytes_per_second})


def _wait_for_reads(machine, disk: Disk, wanted: int) -> None:
    """Until the guest has read that many bytes more from it."""

    def read() -> int:
        disks = machine.qmp("query-blockstats")
        return next(d for d in disks if disk.name in d.get("qdev", ""))["stats"]["rd_bytes"]

    until = read() + wanted
    while read() < until:
        if machine.ended():
            raise Failed("the import ended before its disk did what was asked of it")


@case("source-eio", "the payload's disk has one bad sector, at twelve different places: every other file arrives, and the message names the place")
def source_eio(lab):
    payload, destination = lab.payload(), lab.destination("ext4", 640 * MIB)
    chance = random.Random(SEED)
    data = payload.bytes // 512
    # Not in the first header: without it, the device is not a payload.
    sectors = [chance.randrange(1, data) for _ in range(12)]
    disks = [_failing(payload.path, [sector]) for sector in sectors]
    script = "with_nodes\n"
    for n in range(len(sectors)):
        device = f"/dev/vd{chr(ord('b') + n)}"
        script += f"""
            exits 1 lbpayload import --device {device} /external/{n}
            says {device}; says "Input/output error"
            say message-{n} "$(grep -F offset /output | tail -n 1)"
        """
    # Else the last import's staging directory may come back.
    script += "sync\npass\n"
    said = lab.boot(destination, disks, script)
    checked = 0
    with filesystems.files(destination) as external:
        for n, sector in enumerate(sectors):
            found = filesystems.contents(external / str(n))
            expected = _readable(payload, [sector])
            if found != expected:
                wrong = sorted(found.keys() ^ expected.keys())
                raise Failed(f"sector {sector}: these files are wrong, or missing, or should be: {wrong}")
            checked += len(found)
            if f"offset {sector * 512}" not in said[f"message-{n}"]:
                raise Failed(f"sector {sector}, offset {sector * 512}: the guest says {said[f'message-{n}']}")
    return f"{len(sectors)} bad sectors, {checked} files checked, losses: none"


@case("source-slow", "the payload's disk slows down to 64 KiB per second and recovers: the import continues")
def source_slow(lab):
    payload, destination = lab.payload(), lab.destination()
    disk = Disk(payload.path, name="source")
    arguments = _limited(disk, 8 * MIB)
    script = """
        payload-import --mount-proc
        say importing now
        exits 0 lbpayload import "$DEST"
        pass
    """
    with lab.machine(Setup([Disk(destination.path), disk], script, filesystem="ext3", arguments=arguments)) as machine:
        machine.hear("importing")
        _wait_for_reads(machine, disk, MIB)
        _limit(machine, 64 * KIB)
        _wait_for_reads(machine, disk, 512 * KIB)
        _limit(machine, 0)
        machine.verdict()
    lab.holds(destination, payload.files)


@case("source-pulled", "a USB stick is removed while it is read, and inserted again: only complete files, then all files")
def source_pulled(lab):
    payload, destination = lab.payload(), lab.destination()
    disk = Disk(payload.path, "usb", name="source")
    arguments = _limited(disk, 4 * MIB)
    script = """
        with_sys
        payload-import --mount-proc
        say importing now
        exits 1 lbpayload import "$DEST"
        say message "$(grep -F error: /output | tail -n 1)"
        sync
        say pulled now
        hear
        while ! grep -q ' sd[a-z]$' /proc/partitions; do usleep 50000; done
        exits 0 lbpayload import "$DEST"
        pass
    """
    setup = Setup([Disk(destination.path), disk], script, "full", filesystem="ext3", arguments=arguments)
    with lab.machine(setup) as machine:
        machine.hear("importing")
        _wait_for_reads(machine, disk, 6 * MIB)
        machine.qmp("device_del", id="source")
        machine.hear("pulled")
        checked = _seen_meanwhile(lab, destination, payload)
        _limit(machine, 0)
        machine.qmp("device_add", driver="usb-storage", bus="xhci.0", drive="node-source", id="again")
        machine.tell("go")
        said = machine.verdict()
    lab.holds(destination, payload.files)
    return f"{checked} files checked between, losses: none; it said: {said['message']}"


def _seen_meanwhile(lab, destination, payload) -> int:
    """What a copy of the disk holds while the guest waits, everything being synced."""
    copied = replace(destination, path=lab.directory / "copy.img")
    shutil.copy(destination.path, copied.path)
    return _whole(filesystems.read_back(copied), payload, "between")


@case("destination-full", "another process fills the destination during the import: only complete files; all files once there is space again")
def destination_full(lab):
    payload, destination = lab.payload(), lab.destination(size=64 * MIB)
    disk = Disk(payload.path, name="source")
    arguments = _limited(disk, 2 * MIB)
    script = """
        payload-import --mount-proc
        mknod /dev/null c 1 3
        mknod /dev/zero c 1 5
        # The guest's own words must not be in the way.
        mkdir /memory
        mount -t tmpfs none /memory
        ln -s /memory/output /output
        fill() { dd if=/dev/zero of=/filler$1 bs=$1 2> /dev/null || true; }
        (hear; fill 65536; fill 512; sync; say filled now; hear) &
        say importing now
        exits 1 lbpayload import "$DEST"
        says "No space left on device"
        say message "$(grep -F error: /output | tail -n 1)"
        wait
        sync
        say ended now
        hear
        rm /filler*
        sync
        exits 0 lbpayload import "$DEST"
        pass
    """
    with lab.machine(Setup([Disk(destination.path), disk], script, filesystem="ext3", arguments=arguments)) as machine:
        machine.hear("importing")
        _wait_for_reads(machine, disk, MIB)
        _limit(machine, 16 * KIB)
        machine.tell("fill")
        machine.hear("filled")
        _limit(machine, 0)
        machine.tell("go")
        machine.hear("ended")
        checked = _seen_meanwhile(lab, destination, payload)
        machine.tell("go")
        said = machine.verdict()
    lab.holds(destination, payload.files)
    return f"{checked} files checked between, losses: none; it said: {said['message']}"


@case("destination-eio", "the destination's disk refuses writes to some sectors: only complete files, and never exit status 0")
def destination_eio(lab):
    chance, checked = random.Random(SEED), 0
    payload, refused = lab.payload(), 0
    for trial in range(6):
        destination = lab.destination("ext4", 96 * MIB)
        # Behind the superblock and the first inodes, where files and the journal are.
        bad = [
            {"event": "none", "iotype": "write", "errno": _EIO, "sector": sector, "once": False, "immediately": True}
            for sector in (chance.randrange(8 * MIB // 512, 96 * MIB // 512) for _ in range(8))
        ]
        image = {"driver": "file", "filename": str(destination.path)}
        disks = [Disk(node={"driver": "blkdebug", "image": image, "inject-error": bad}), Disk(payload.path)]
        script = """
            # As the directory that is read back.
            mkdir /external/external
            DEST=/external/external/distfiles
            payload-import --mount-proc
            status=0
            lbpayload import "$DEST" > /output 2>&1 || status=$?
            say status $status
            pass
        """
        with lab.machine(Setup(disks, script, filesystem="ext4", is_root=False)) as machine:
            said = machine.verdict()
        found = filesystems.read_back(destination)
        checked += _whole(found, payload, f"trial {trial}")
        if said["status"] != "0":
            refused += 1
        elif len(found) != len(payload.files):
            raise Failed(f"trial {trial}: status 0, and {len(found)} of {len(payload.files)} files are there")
    return f"6 disks with 8 bad sectors each, {refused} imports failed, {checked} files checked, losses: none"
