"""Disks with bad sectors, and disks that go away, with and without a second copy."""

import json
import random
import re
import shutil
from pathlib import Path

from cases.faults import SEED, _failing, _limit, _limited, _readable, _wait_for_reads
from harness import filesystems, images
from harness.case import case
from harness.disks import Disk
from harness.images import MIB
from harness.machine import Setup
from harness.nbdkit import served
from harness.outcome import Failed


def _headers(payload) -> list[int]:
    """The sector in which the header of each file begins, in order."""
    sectors, start = [], 16
    for name, (size, _) in payload.files.items():
        sectors.append(start // 512)
        start += 16 + len(name.encode()) + size
    return sectors


def _shares(said: dict[str, str]) -> str:
    """How many bytes came from each copy, by the report. Fails if one gave nothing."""
    copies = json.loads(said["report"])["copies"]
    if len(copies) != 2 or not all(copy["bytes"] for copy in copies):
        raise Failed(f"not from both copies: {copies}")
    return ", ".join(f"{copy['bytes']} bytes from {copy['device']}" for copy in copies)


@case("copies-bad-sectors", "two disks with the same payload, on virtio and NVMe, with a dozen bad sectors each at different places: import from both gets every file, from one alone those that it can read")
def copies_bad_sectors(lab):
    payload, destination = lab.payload(), lab.destination("ext4", 640 * MIB)
    sectors = random.Random(SEED).sample(range(1, payload.bytes // 512), 22)
    # Each disk has one bad header, late in the payload.
    header_a, header_b = (_headers(payload)[n] for n in (-5, -2))
    bad = {"a": [*sectors[:11], header_a], "b": [*sectors[11:], header_b]}
    if len(set(bad["a"] + bad["b"])) != 24:
        raise Failed("the disks have a bad sector in common")
    script = """
        with_nodes
        a=/dev/vdb
        b=/dev/nvme0n1
        exits 0 sh -c "lbpayload import --json --device $a --device $b /external/both > /report"
        say report "$(cat /report)"
        for disk in a b; do
            eval device=\\$$disk
            exits 1 lbpayload import --device $device /external/$disk
            says $device
        done
        sync
        pass
    """
    disks = [_failing(payload.path, bad["a"]), _failing(payload.path, bad["b"], "nvme")]
    said = lab.boot(destination, disks, script)
    with filesystems.files(destination) as external:
        filesystems.compare(filesystems.contents(external / "both"), payload.files, "from both disks")
        alone = []
        for disk, sectors in bad.items():
            readable = _readable(payload, sectors)
            filesystems.compare(filesystems.contents(external / disk), readable, f"from disk {disk} alone")
            alone.append(len(readable))
    files = f"{len(payload.files)} files from both, {alone[0]} and {alone[1]} from one alone"
    return f"12 bad sectors each, {files}; {_shares(said)}"


@case("copy-pulled", "a USB disk is removed while it is read, with a second copy on virtio: import continues with the copy, and all files arrive")
def copy_pulled(lab):
    payload, destination = lab.payload(), lab.destination()
    copy = lab.directory / "copy.img"
    shutil.copy(payload.path, copy)
    disk = Disk(payload.path, "usb", name="source")
    arguments = _limited(disk, 4 * MIB)
    script = """
        with_nodes
        payload-import --mount-proc
        say importing now
        exits 0 sh -c "lbpayload import --json --device /dev/sda --device /dev/vdb $DEST > /report"
        say report "$(cat /report)"
        ! grep -q ' sda$' /proc/partitions || fail "the disk is still there"
        pass
    """
    disks = [Disk(destination.path), Disk(copy), disk]
    setup = Setup(disks, script, "full", filesystem="ext3", arguments=arguments)
    with lab.machine(setup) as machine:
        machine.hear("importing")
        _wait_for_reads(machine, disk, 6 * MIB)
        machine.qmp("device_del", id="source")
        _limit(machine, 0)
        said = machine.verdict()
    lab.holds(destination, payload.files)
    return _shares(said)


def _map(path: Path, size: int, sectors: list[int]) -> None:
    """Writes a mapfile of ddrescue in which these sectors are bad."""
    lines, at = ["0x0 + 1"], 0
    for sector in sorted(sectors):
        lines.append(f"{at:#x} {sector * 512 - at:#x} +")
        lines.append(f"{sector * 512:#x} 512 -")
        at = sector * 512 + 512
    lines.append(f"{at:#x} {size - at:#x} +")
    path.write_text("\n".join(lines) + "\n")


def _bad_in(path: Path) -> list[int]:
    """The bad sectors of a mapfile."""
    sectors = []
    lines = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
    # The first line says where ddrescue would go on.
    for position, size, status in lines[1:]:
        start, length = int(position, 0), int(size, 0)
        if status == "-":
            sectors += range(start // 512, -(-(start + length) // 512))
    return sectors


def _failed_reads(log: Path, start_at: int, sectors: list[int]) -> dict[int, int]:
    """How many failed reads touched each of these sectors, by nbdkit's log from that byte on."""
    asked, failed = {}, dict.fromkeys(sectors, 0)
    for line in log.read_bytes()[start_at:].decode().splitlines():
        if found := re.search(r"connection=(\d+) Read id=(\d+) offset=(0x[0-9a-f]+) count=(0x[0-9a-f]+)", line):
            asked[found[1], found[2]] = int(found[3], 16), int(found[4], 16)
        elif found := re.search(r"connection=(\d+) \.\.\.Read id=(\d+) return=-1", line):
            start, length = asked[found[1], found[2]]
            for sector in sectors:
                failed[sector] += start <= sector * 512 < start + length
    return failed


@case("bad-slow", "a disk whose bad sectors take a second to fail: every file without one arrives, no bad sector is read more than three times, and `verify --map` gives exactly those sectors")
def bad_slow(lab):
    payload, destination = lab.payload(), lab.destination("ext4")
    size = -(-payload.bytes // 4096) * 4096
    images.resize(payload.path, size)
    chance, headers = random.Random(SEED), _headers(payload)
    sectors = []
    while len(sectors) < 6:
        sector = chance.randrange(1, payload.bytes // 512)
        # What is behind a bad header is another case's.
        if not any(header <= sector <= header + 1 for header in headers):
            sectors.append(sector)
    given, log = lab.directory / "given.map", lab.directory / "requests.log"
    _map(given, size, sectors)
    script = """
        with_nodes
        say importing now
        hear
        exits 1 lbpayload import --device /dev/vdb /external/distfiles
        say message "$(grep -F 'files not imported' /output)"
        say imported now
        hear
        exits 1 lbpayload verify --map /external/found.map /dev/vdb
        sync
        pass
    """
    # What fails is tried again a second later.
    words = ["--filter=log", "--filter=retry-request", "--filter=ddrescue", "file", payload.path]
    words += [f"logfile={log}", "retry-request-retries=1", "retry-request-delay=1", f"ddrescue-mapfile={given}"]
    with served("--readonly", *words) as node:
        disks = [Disk(destination.path), Disk(read_only=True, node=node)]
        with lab.machine(Setup(disks, script, filesystem="ext4")) as machine:
            # Until here, the guest has read it to find the destination.
            machine.hear("importing")
            start_at = log.stat().st_size
            machine.tell("go")
            machine.hear("imported")
            failed = _failed_reads(log, start_at, sectors)
            machine.tell("go")
            said = machine.verdict()
    readable = _readable(payload, sectors)
    with filesystems.files(destination) as external:
        filesystems.compare(filesystems.contents(external / "distfiles"), readable, "from the bad disk")
        found = _bad_in(external / "found.map")
    if found != _bad_in(given):
        raise Failed(f"the map has the bad sectors {found} instead of {_bad_in(given)}")
    # Twice, and once for the default of --retries.
    if not all(1 <= reads <= 3 for reads in failed.values()):
        raise Failed(f"failed reads by sector: {failed}")
    files = f"{len(readable)} of {len(payload.files)} files"
    return f"{len(sectors)} bad sectors, {files}, {sum(failed.values())} failed reads; it said: {said['message']}"
