#!/bin/bash
# dracut: puts lbpayload into the initramfs, with the drivers of every disk that a
# payload may be on. Install the directory as /usr/lib/dracut/modules.d/90lbpayload and
# ask for it with `dracut --add lbpayload`.

# dracut's own PATH is without /usr/local.
program() {
    PATH=$PATH:/usr/local/sbin:/usr/local/bin command -v lbpayload
}

check() {
    program >/dev/null || return 1
    # Only when it is asked for.
    return 255
}

installkernel() {
    # Also what this machine does not have at this moment.
    hostonly='' instmods =drivers/block =drivers/ata =drivers/nvme =drivers/mmc \
        =drivers/usb/storage =drivers/scsi virtio_pci fuse
}

install() {
    inst "$(program)" /usr/bin/lbpayload
    ln_r /usr/bin/lbpayload /usr/bin/payload-import
    inst_multiple mount
    inst_hook pre-pivot 10 "$moddir/import.sh"
}
