"""What is about to be flashed: an image with an initramfs that Debian's own tools made."""

import os
import shutil
import subprocess

from harness import chroot, debian
from harness.case import case
from harness.outcome import Failed
from harness.program import program


@case("promote-verify", "`promote verify` reads the initramfs that `mkinitramfs` makes for Debian's arm64 kernel (no guest)")
def promote_verify(lab):
    package = debian.unpacked("linux-image-cloud-arm64", "arm64")
    release = next((package / "lib/modules").iterdir()).name
    staged = lab.directory / "Linux_for_Tegra"
    modules = staged / "rootfs/usr/lib/modules" / release
    for directory in ("kernel", "bootloader", "rootfs/boot", "rootfs/usr/lib/modules"):
        (staged / directory).mkdir(parents=True, exist_ok=True)
    os.symlink("usr/lib", staged / "rootfs/lib")
    for image in ("kernel/Image", "rootfs/boot/Image"):
        shutil.copy(package / f"boot/vmlinuz-{release}", staged / image)
    shutil.copytree(package / "lib/modules" / release, modules, symlinks=True)
    with chroot.debian() as root:
        there = root / "usr/lib/modules" / release
        shutil.copytree(modules, there, dirs_exist_ok=True)
        shutil.copy(package / f"boot/config-{release}", root / "boot")
        chroot.run(root, "depmod", release)
        for index in there.glob("modules.*"):
            shutil.copy(index, modules)
        for compressor, name in (("gzip", "bootloader/l4t_initrd.img"), ("zstd", "rootfs/boot/initrd")):
            chroot.run(root, "mkinitramfs", "-c", compressor, "-o", "/boot/made", release)
            shutil.copy(root / "boot/made", staged / name)
    said = _verify(staged, 0)
    if said.count("modules are the same as in rootfs") != 2:
        raise Failed(f"no modules were compared:\n{said}")
    # Another build of a module that both of them hold.
    module = next(modules.rglob("virtio_pci.ko"))
    module.write_bytes(module.read_bytes() + b"\n")
    said = _verify(staged, 1)
    if said.count("virtio_pci.ko: it is another version than in the initramfs") != 2:
        raise Failed(f"the old module was not found:\n{said}")


def _verify(staged, status: int) -> str:
    words = [program("x86_64"), "promote", "verify", "--image", staged]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != status:
        raise Failed(f"exit status {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
