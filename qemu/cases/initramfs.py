"""What a distribution boots with, our hook in it: imports before the root is gone to."""

import shutil
import subprocess

from harness import chroot, debian
from harness.case import case
from harness.disks import Disk
from harness.filesystems import Destination
from harness.images import MIB
from harness.kernels import kernel
from harness.machine import Setup
from harness.places import ROOT
from harness.program import program

# The root's own first process: it has been gone to, and what was imported is there.
_INIT = """#!/bin/busybox sh
[ "$(/bin/busybox ls /external/distfiles | /bin/busybox wc -l)" -gt 1 ] && verdict=PASS || verdict="FAIL nothing was imported"
/bin/busybox [ -c /dev/ttyS1 ] || /bin/busybox mount -t devtmpfs none /dev
echo "case: $verdict" > /dev/ttyS1
while :; do /bin/busybox sleep 1000; done
"""


@case("initramfs-tools", "the hook and script for initramfs-tools: `mkinitramfs`, boot, import before the switch to the root")
def initramfs_tools(lab):
    _imports(lab, "initramfs-tools", "mkinitramfs", "-o", "/boot/made")


@case("dracut", "the same with the dracut module")
def dracut(lab):
    _imports(lab, "dracut", "dracut", "--no-hostonly", "--add", "lbpayload", "--force", "/boot/made")


def _imports(lab, which: str, *command: str) -> None:
    system = kernel("cloud")
    with chroot.debian() as root:
        _installed(root, system)
        chroot.run(root, *command, system.version)
        made = lab.directory / "made"
        shutil.copy(root / "boot/made", made)
    payload, destination = lab.payload(), _root(lab, system)
    append = "root=LABEL=destination lbpayload.import=/external/distfiles"
    disks = [Disk(destination.path), Disk(payload.path)]
    with lab.machine(Setup(disks, "", initramfs=made, memory_mib=512, append=append)) as machine:
        machine.verdict()
    lab.holds(destination, payload.files)


def _installed(root, system) -> None:
    """Does what docs/bare-metal.md tells users to do."""
    shutil.copytree(system.tree, root / "usr/lib/modules" / system.version, dirs_exist_ok=True)
    for file in system.image.parent.iterdir():
        shutil.copy(file, root / "boot")
    chroot.run(root, "depmod", system.version)
    scripts = ROOT / "scripts"
    shutil.copy(program("x86_64"), root / "usr/local/bin/lbpayload")
    shutil.copytree(scripts / "initramfs-tools", root / "etc/initramfs-tools", dirs_exist_ok=True)
    shutil.copytree(scripts / "dracut", root / "usr/lib/dracut/modules.d", dirs_exist_ok=True)


def _root(lab, system) -> Destination:
    """A root that has a first process, and nothing else but an empty /external."""
    tree = lab.directory / "root"
    for name in ("bin", "sbin", "dev", "proc", "sys", "run", "external"):
        (tree / name).mkdir(parents=True)
    busybox = debian.unpacked("busybox-static", system.architecture)
    shutil.copy(next(p for p in (busybox / "bin/busybox", busybox / "usr/bin/busybox") if p.exists()), tree / "bin")
    (tree / "sbin/init").write_text(_INIT)
    (tree / "sbin/init").chmod(0o755)
    path, size = lab.directory / "ext4.img", 128 * MIB
    with open(path, "wb") as image:
        image.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "destination", "-d", tree, path], check=True)
    return Destination(path, "ext4", size=size)
