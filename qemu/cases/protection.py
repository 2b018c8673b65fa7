"""Protected payloads that are damaged, healed by the static program in a guest."""

import json
import shutil
import subprocess

from harness import images
from harness.case import case
from harness.disks import Disk
from harness.images import MIB
from harness.outcome import Failed
from harness.program import program

# A header of the trailer is a block that starts with this.
_MAGIC = b"LBPROTC1"
# What `repair` may take, and what import has for everything.
_MEMORY = "16M"

_SCRIPT = f"""
    payload-import --mount-proc
    with_nodes
    exits 1 lbpayload verify DISK
    exits 0 sh -c "lbpayload import --memory {_MEMORY} --json --device DISK $DEST > /report"
    say report "$(cat /report)"
    exits 0 lbpayload repair --memory {_MEMORY} DISK
    exits 0 lbpayload verify DISK
    sync
    pass
"""


def _protected(lab, architecture: str):
    """A payload with a trailer behind it."""
    payload = lab.payload()
    done = subprocess.run([program(architecture), "protect", "--percent", "10", payload.path], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"protect: {done.stderr}")
    return payload


def _damage(path, payload_bytes: int) -> None:
    """Zeroes over a megabyte, the first sector, and the first header of the trailer."""
    header = -(-payload_bytes // 4096) * 4096
    with open(path, "r+b") as disk:
        for at, length in ((payload_bytes // 3, MIB), (0, 512), (header, 4096)):
            disk.seek(at)
            if at == header and disk.read(8) != _MAGIC:
                raise Failed("there is no header behind the payload")
            disk.seek(at)
            disk.write(bytes(length))


def _healed(lab, bus: str, device: str, architecture: str, size: int | None = None, **how) -> str:
    payload = _protected(lab, architecture)
    whole = lab.directory / "whole.img"
    shutil.copy(payload.path, whole)
    _damage(payload.path, payload.bytes)
    if size:
        images.resize(payload.path, size)
    destination = lab.destination()
    script = _SCRIPT.replace("DISK", device)
    said = lab.boot(destination, [Disk(payload.path, bus)], script, destination_bus=bus, **how)
    lab.holds(destination, payload.files)
    length = whole.stat().st_size
    with open(payload.path, "rb") as disk, open(whole, "rb") as good:
        if disk.read(length) != good.read():
            raise Failed("repair did not restore every byte")
    healed = json.loads(said["report"])["protection"]["healed_blocks"]
    if healed < MIB // 4096:
        raise Failed(f"import healed {healed} blocks")
    return f"{healed} blocks healed"


@case("protected", "a protected payload with zeros over a megabyte, the first sector and a header of the trailer: `import --memory 16M` gets every file, and `repair` restores every byte")
def protected(lab):
    return _healed(lab, "virtio-blk", "/dev/vdb", "x86_64")


@case("protected-i686", "the same with a 32-bit kernel and program, on IDE")
def protected_i686(lab):
    return _healed(lab, "ide", "/dev/sdb", "i686", kernel="686")


@case("protected-larger-disk", "the same on a disk that is larger than the image: the trailer is found by a search")
def protected_larger_disk(lab):
    return _healed(lab, "virtio-blk", "/dev/vdb", "x86_64", size=64 * MIB)
