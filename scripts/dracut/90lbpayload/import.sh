#!/bin/sh
# dracut, before the root is gone to: imports into it if the kernel's command line has
#
#   lbpayload.import=DIR            a directory of the root, as /external/distfiles
#   lbpayload.device=/dev/DISK      without it, the only payload that is found
type getarg >/dev/null 2>&1 || . /lib/dracut-lib.sh

dest=$(getarg lbpayload.import=) && [ -n "$dest" ] || return 0
device=$(getarg lbpayload.device=)

info "lbpayload: importing into $dest"
# Read-only unless the command line says rw.
read_only=
getargbool 0 rw || read_only=yes
[ -z "$read_only" ] || mount -o remount,rw "$NEWROOT" || die "lbpayload: the root cannot be written to"
# It says on standard error what is wrong and what to do.
lbpayload import ${device:+--device "$device"} "$NEWROOT/$dest" ||
    die "lbpayload: nothing is imported; see above"
[ -z "$read_only" ] || mount -o remount,ro "$NEWROOT" || :
