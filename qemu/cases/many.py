"""Many machines import from one export of somebody else's block engine.

The guests' program is built without the feature `net`: a block export needs none of it.
"""

import hashlib
import json
import os
import time
from contextlib import contextmanager

from harness import chroot, exports
from harness.case import case
from harness.disks import Disk
from harness.exports import ETH0_UP, HOST, NETWORK, TARGET, Export
from harness.images import MIB
from harness.lab import IMPORT, imported_from
from harness.machine import Setup
from harness.outcome import Failed

_GUESTS = 8
_MEMORY_MIB = 160
_SUBSYSTEM = "nqn.2026-11.example:payload"

_WAIT = "say ready now\nhear\n"
# What a guest sends and receives, from its start on.
_COUNT = """
    say received "$(cat /sys/class/net/eth0/statistics/rx_bytes)"
    say sent "$(cat /sys/class/net/eth0/statistics/tx_bytes)"
"""
# What every guest with the network does first.
_NETWORK_UP = f"""
    with_sys
    payload-import --mount-proc
    {ETH0_UP}
    # The export needs nothing of what reads URLs.
    exits 1 lbpayload list http://{HOST}/payload
    says "this build of lbpayload cannot read URLs"
"""


def _import_by(count: int, lab, payload, disks, script, source: str, export: Export | None = None, **how) -> dict:
    """Boots `count` guests, of which the n-th runs `script(n)`, lets them go at the same time when
    all are ready, and checks what they have. All are at work before the first is asked how it went."""
    said, machines = [], []
    destinations = [lab.destination("ext3", 96 * MIB, name=f"guest-{n}") for n in range(count)]
    try:
        for n, destination in enumerate(destinations):
            setup = Setup([Disk(destination.path), *disks()], script(n), "cloud", _MEMORY_MIB, "ext3", **how)
            machines.append(lab.machine(setup, f"guest-{n}"))
        for machine in machines:
            machine.hear("ready")
        connections = export.connections() if export else 0
        used, began = export.processor_seconds() if export else None, time.monotonic()
        for machine in machines:
            machine.tell("go")
        for machine in machines:
            said.append(machine.verdict())
            imported_from(said[-1], source)
        seconds = time.monotonic() - began
        used = None if used is None else export.processor_seconds() - used
    finally:
        for machine in machines:
            machine.cut()
    for destination in destinations:
        lab.holds(destination, payload.files)
        destination.path.unlink()
    received = max(int(one.get("received", 0)) for one in said)
    return {
        "guests": count,
        "connections": connections,
        "received": received,
        "sent": max(int(one.get("sent", 0)) for one in said),
        "each": max(json.loads(one["report"])["seconds"] for one in said),
        "seconds": seconds,
        "processor": used,
    }


def _import_by_one_and_many(lab, payload, script, source: str, export: Export, **how) -> str:
    """By one guest, then by many, over the network."""
    how = {"arguments": NETWORK, **how}

    def whole(n: int) -> str:
        return _NETWORK_UP + script(n) + _WAIT + IMPORT.replace("pass", _COUNT + "pass")

    figures = []
    for count in (1, _GUESTS):
        ran = _import_by(count, lab, payload, lambda: [], whole, source, export, **how)
        (lab.directory / f"figures-{count}.json").write_text(json.dumps(ran | {"payload": payload.bytes}) + "\n")
        each = f"{ran['received'] / payload.bytes:.3f} of the payload received"
        line = f"{count} guest{'s' * (count > 1)}: {ran['connections']} connections, {each}, {ran['seconds']:.1f} s"
        if ran["processor"] is not None:
            line += f", {ran['processor']:.2f} s of the server's processor"
        figures.append(line)
    return f"{'; '.join(figures)}; {(1 + _GUESTS) * len(payload.files)} files checked, losses: none"


@case("many-drives", "eight guests import at the same time from one read-only export of `qemu-nbd`, attached as a drive by QEMU")
def many_drives(lab):
    payload = lab.payload(files=_files())
    with exports.nbd(payload.path) as export:
        node = {"driver": "nbd", "server": {"type": "inet", "host": "127.0.0.1", "port": str(export.port)}}
        drive = [Disk(node=node, read_only=True)]
        _import_by(_GUESTS, lab, payload, lambda: drive, lambda _: _WAIT + IMPORT, "/dev/vdb")
    return f"{_GUESTS} guests of {_MEMORY_MIB} MiB, {_GUESTS * len(payload.files)} files checked, losses: none"


@case("many-nbd", "one guest, then eight with their own kernels: `nbd-client` attaches the export, and probe finds /dev/nbd0")
def many_nbd(lab):
    payload = lab.payload(files=_files())
    with exports.nbd(payload.path) as export:

        def connect(_):
            return f"""
                mknod /dev/nbd0 b 43 0
                {_run("nbd-client")} {HOST} {export.port} /dev/nbd0 -N ""
                while [ "$(cat /sys/block/nbd0/size)" = 0 ]; do usleep 50000; done
                rm /dev/nbd0
            """

        modules = ["virtio_pci", "virtio_net", "nbd"]
        files = _program("/usr/sbin/nbd-client")
        return _import_by_one_and_many(lab, payload, connect, "/dev/nbd0", export, modules=modules, files=files)


@case("many-iscsi", "the same with iSCSI: `iscsistart` of open-iscsi in the guests, tgt on the host, and probe finds /dev/sda")
def many_iscsi(lab):
    payload = lab.payload(files=_files())
    _to_whole_sectors(payload.path)
    with exports.iscsi(payload.path) as export:

        def connect(n):
            return f"""
                mkdir -p /run /var /etc/iscsi
                {_run("iscsistart")} -i iqn.2026-11.example:guest-{n} -t {TARGET} -g 1 -a {HOST} -p {export.port}
                while [ ! -e /sys/block/sda ]; do usleep 50000; done
            """

        modules = ["virtio_pci", "virtio_net", "crc32c_generic", "iscsi_tcp", "sd_mod"]
        files = _program("/usr/sbin/iscsistart")
        return _import_by_one_and_many(lab, payload, connect, "/dev/sda", export, modules=modules, files=files)


@case("many-nvme-tcp", "the same with NVMe over TCP: another guest's kernel is the target, and probe finds /dev/nvme0n1")
def many_nvme_tcp(lab):
    payload = lab.payload(files=_files())
    _to_whole_sectors(payload.path)
    before = _sha256(payload.path)
    with _nvme_target(lab, payload.path) as export:

        def connect(n):
            # The guests share a few processors, so that the target may answer late.
            return f"""
                mknod /dev/nvme-fabrics c $(tr : ' ' < /sys/class/misc/nvme-fabrics/dev)
                options=transport=tcp,traddr={HOST},trsvcid={export.port},nqn={_SUBSYSTEM}
                options=$options,hostnqn=nqn.2026-11.example:guest-{n},hostid=00000000-0000-0000-0000-00000000000{n}
                echo "$options,keep_alive_tmo=120" > /dev/nvme-fabrics
                while [ ! -e /sys/block/nvme0n1 ]; do usleep 50000; done
                rm /dev/nvme-fabrics
            """

        modules = ["virtio_pci", "virtio_net", "crc32c_generic", "nvme_tcp"]
        figures = _import_by_one_and_many(lab, payload, connect, "/dev/nvme0n1", export, modules=modules)
    # The target exports a disk that can be written.
    if _sha256(payload.path) != before:
        raise Failed("the export has been written to")
    return figures


@contextmanager
def _nvme_target(lab, image):
    """A guest whose kernel exports its disk over TCP."""
    port = exports.free_port()
    forward = ["-netdev", f"user,id=network,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:4420"]
    script = f"""
        with_sys
        with_proc
        with_nodes
        {ETH0_UP}
        mount -t configfs none /sys/kernel/config
        cd /sys/kernel/config/nvmet
        mkdir subsystems/{_SUBSYSTEM}
        echo 1 > subsystems/{_SUBSYSTEM}/attr_allow_any_host
        mkdir subsystems/{_SUBSYSTEM}/namespaces/1
        echo -n /dev/vda > subsystems/{_SUBSYSTEM}/namespaces/1/device_path
        echo 1 > subsystems/{_SUBSYSTEM}/namespaces/1/enable
        mkdir ports/1
        echo ipv4 > ports/1/addr_adrfam
        echo tcp > ports/1/addr_trtype
        echo 0.0.0.0 > ports/1/addr_traddr
        echo 4420 > ports/1/addr_trsvcid
        ln -s /sys/kernel/config/nvmet/subsystems/{_SUBSYSTEM} ports/1/subsystems/
        say ready now
        hear
    """
    modules = ["virtio_pci", "virtio_net", "crc32c_generic", "nvmet", "nvmet_tcp"]
    setup = Setup([Disk(image)], script, modules=modules, arguments=forward + NETWORK[2:])
    with lab.machine(setup, "target") as machine:
        machine.hear("ready")
        yield Export(None, port)


def _files() -> list[tuple[str, int]]:
    return [("large.tar", 24_000_007)] + [(f"small-{n:03}", n * 97) for n in range(300)]


def _to_whole_sectors(image) -> None:
    """A SCSI or NVMe disk hides what is behind its last whole sector."""
    os.truncate(image, -(-image.stat().st_size // 4096) * 4096)


def _sha256(path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run(program: str) -> str:
    # With its own libraries, so that the guest needs none.
    return f"/case/{program}/loader --library-path /case/{program} /case/{program}/{program}"


def _program(path: str) -> dict[str, bytes]:
    """A program of Debian, with the libraries that it is linked to."""
    name = os.path.basename(path)
    with chroot.debian() as root:
        listed = chroot.run(root, "ldd", path)
        files = {f"{name}/{name}": (root / path[1:]).read_bytes()}
        for word in listed.split():
            if word.startswith("/"):
                library = "loader" if "ld-linux" in word else os.path.basename(word)
                files[f"{name}/{library}"] = (root / word[1:]).read_bytes()
    return files
