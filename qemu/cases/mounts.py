"""Mounts in trouble: the disk goes away or does not answer, and an NFS server on top."""

from pathlib import Path

from cases.faults import _limit, _limited
from harness import debian
from harness.case import case
from harness.disks import Disk
from harness.images import KIB, MIB
from harness.machine import Setup
from harness.outcome import Failed

# One file that is read before the trouble, and one that is not in any cache.
FILES = [("small", 5000), ("large", 24 * MIB), ("other", 3 * MIB)]

MOUNTED = """
    with_proc
    with_nodes
    mknod /dev/fuse c 10 229
    mknod /dev/null c 1 3
    exits 0 lbpayload mount /dev/DISK /mnt
    exits 0 sha256sum /mnt/small
"""

# Fails unless the mount and its server end.
UNMOUNTED = """
    exits 0 lbpayload unmount /mnt
    ! grep -q lbpayload /proc/mounts || fail "it is still mounted"
    for status in /proc/[0-9]*/comm; do
        [ "$(cat $status 2>/dev/null)" != lbpayload ] || fail "a server is left"
    done
    pass
"""


@case("mount-pulled", "a USB disk is removed under a mount: reads fail with EIO, names are still answered, the unmount is clean")
def mount_pulled(lab):
    payload = lab.payload(files=FILES)
    disk = Disk(payload.path, "usb", name="source")
    script = MOUNTED.replace("DISK", "sda") + """
        say mounted now
        hear
        while grep -q ' sda$' /proc/partitions; do usleep 50000; done
        exits 1 cat /mnt/large
        says "Input/output error"
        exits 1 cat /mnt/other
        says "Input/output error"
        [ "$(ls /mnt | wc -l)" = 3 ] || fail "names are missing"
        exits 1 ls /mnt/no-such-name
    """ + UNMOUNTED
    with lab.machine(Setup([disk], script, "full", modules=["fuse"])) as machine:
        machine.hear("mounted")
        machine.qmp("device_del", id="source")
        machine.tell("go")
        machine.verdict()


@case("mount-pulled-reading", "the same while a program reads: it ends with EIO and does not hang")
def mount_pulled_reading(lab):
    payload = lab.payload(files=FILES)
    disk = Disk(payload.path, "usb", name="source")
    arguments = _limited(disk, 2 * MIB)
    script = MOUNTED.replace("DISK", "sda") + """
        (usleep 500000; say reading now) &
        exits 1 cat /mnt/large
        says "Input/output error"
        wait
    """ + UNMOUNTED
    with lab.machine(Setup([disk], script, "full", modules=["fuse"], arguments=arguments)) as machine:
        machine.hear("reading")
        machine.qmp("device_del", id="source")
        _limit(machine, 0)
        machine.verdict()


@case("mount-stalled", "the disk does not answer for a while: names are answered meanwhile, `unmount --lazy` does not wait, and later all bytes are right")
def mount_stalled(lab):
    payload = lab.payload(files=FILES)
    disk = Disk(payload.path, name="source")
    arguments = _limited(disk, 0)
    script = MOUNTED.replace("DISK", "vda") + """
        say mounted now
        hear
        sha256sum /mnt/large > /sum &
        sleep 1
        # Each of them alone would wait for ever if the server did.
        [ "$(ls /mnt | wc -l)" = 3 ] || fail "names are missing"
        exits 1 ls /mnt/no-such-name
        exits 1 lbpayload unmount /mnt
        says busy
        exits 0 lbpayload unmount --lazy /mnt
        [ ! -s /sum ] || fail "the disk was not slow"
        say detached now
        wait
        say sum "$(cat /sum)"
        while grep -q lbpayload /proc/[0-9]*/comm 2>/dev/null; do usleep 50000; done
        pass
    """
    with lab.machine(Setup([disk], script, modules=["fuse"], arguments=arguments)) as machine:
        machine.hear("mounted")
        # Slow enough: the guest is done with its checks before the first read is.
        _limit(machine, 32 * KIB)
        machine.tell("go")
        machine.hear("detached")
        _limit(machine, 0)
        said = machine.verdict()
    wanted = payload.files["large"][1]
    if said["sum"].split()[0] != wanted:
        raise Failed(f"large has the sum {said['sum']}, expected {wanted}")


def _device_mapper() -> dict[str, bytes]:
    """dmsetup and its libraries, for /case in the guest."""
    packages = ["dmsetup", "libdevmapper1.02.1", "libc6", "libselinux1", "libudev1", "libpcre2-8-0"]
    wanted = {
        "dmsetup": "dmsetup", "ld-linux-x86-64.so.2": "ld.so", "libdevmapper.so.1.02.1": None, "libc.so.6": None,
        "libm.so.6": None, "libpthread.so.0": None, "libselinux.so.1": None, "libudev.so.1": None,
        "libpcre2-8.so.0": None,
    }
    files = {}
    for package in packages:
        for path in Path(debian.unpacked(package, "amd64")).rglob("*"):
            if path.name in wanted and path.is_file():
                files[wanted[path.name] or path.name] = path.read_bytes()
    return files


@case("mount-suspended", "the disk is suspended by device-mapper and resumed: reads wait, names are answered, a killed reader ends, then all bytes are right and nothing keeps the disk")
def mount_suspended(lab):
    payload = lab.payload(files=FILES)
    script = """
        with_proc
        with_nodes
        mknod /dev/fuse c 10 229
        mknod /dev/null c 1 3
        # Nobody else makes the nodes.
        export DM_DISABLE_UDEV=1
        dm() { /case/ld.so --library-path /case /case/dmsetup "$@"; }
        sectors=$(awk '$4 == "vda" { print 2 * $3 }' /proc/partitions)
        exits 0 dm create source --readonly --table "0 $sectors linear /dev/vda 0"
        [ -b /dev/mapper/source ] || fail "there is no device: $(ls -l /dev/mapper /dev/dm-0 2>&1 | tr '\\n' ' ')"
        exits 0 lbpayload mount /dev/mapper/source /mnt
        exits 0 sha256sum /mnt/small
        exits 0 dm suspend source
        sha256sum /mnt/large > /sum &
        cat /mnt/other > /dev/null &
        killed=$!
        sleep 1
        # Each of them alone would wait for ever if the server did.
        [ "$(ls /mnt | wc -l)" = 3 ] || fail "names are missing"
        exits 1 ls /mnt/no-such-name
        kill -9 $killed
        wait $killed || [ $? = 137 ] || fail "cat ended before it was killed"
        exits 1 lbpayload unmount /mnt
        says busy
        [ ! -s /sum ] || fail "the disk was not suspended"
        exits 0 dm resume source
        wait
        say large "$(cat /sum)"
        say other "$(sha256sum /mnt/other)"
        exits 0 lbpayload unmount /mnt
        exits 0 dm remove source
        pass
    """
    setup = Setup([Disk(payload.path)], script, modules=["fuse", "dm-mod"], files=_device_mapper())
    with lab.machine(setup) as machine:
        said = machine.verdict()
    for name in ("large", "other"):
        if said[name].split()[0] != payload.files[name][1]:
            raise Failed(f"{name} has the sum {said[name]}")


@case("mount-nfs", "the kernel's NFS server exports a mount: its files are read through NFS, also after the kernel has dropped them from its caches")
def mount_nfs(lab):
    payload = lab.payload(files=FILES)
    # What rpc.mountd would answer; see its cache files in /proc/net/rpc.
    script = MOUNTED.replace("/mnt", "/export").replace("DISK", "vda") + """
        mount -t nfsd nfsd /proc/fs/nfsd
        ip link set lo up || ifconfig lo 127.0.0.1 up
        far=2147483647
        echo "nfsd 127.0.0.1 $far all" > /proc/net/rpc/auth.unix.ip/channel
        answer() {
            echo "all $1 $far 9251 0 0 $2" > /proc/net/rpc/nfsd.export/channel
            echo "all 1 $3 $far $1" > /proc/net/rpc/nfsd.fh/channel
        }
        # Version 3 needs a portmapper.
        echo "-3 +4" > /proc/fs/nfsd/versions
        echo 10 > /proc/fs/nfsd/nfsv4gracetime
        answer /export 0 '\\x00000000'
        echo 2 > /proc/fs/nfsd/threads
        mkdir /nfs
        mount -t nfs -o vers=4.2,addr=127.0.0.1,clientaddr=127.0.0.1,sec=sys 127.0.0.1:/ /nfs
        exits 0 ls /nfs
        exits 0 sha256sum /nfs/small
        exec 5< /nfs/other
        # The server then knows the files by their handles alone.
        echo 2 > /proc/sys/vm/drop_caches
        say large "$(sha256sum /nfs/large)"
        say other "$(sha256sum <&5)"
        exec 5<&-
        pass
    """
    modules = ["fuse", "nfsd", "nfsv4"]
    with lab.machine(Setup([Disk(payload.path)], script, "full", memory_mib=512, modules=modules)) as machine:
        said = machine.verdict()
    for name in ("large", "other"):
        if said[name].split()[0] != payload.files[name][1]:
            raise Failed(f"{name} has the sum {said[name]}")
