"""What the harness itself must notice, or its other cases prove nothing."""

from harness.case import case
from harness.disks import Disk
from harness.lab import IMPORT
from harness.machine import Setup
from harness.outcome import Failed


def _notices(what: str, check, *arguments, **named) -> None:
    """Fails unless `check` does, with these words."""
    try:
        check(*arguments, **named)
    except Failed as e:
        if what not in str(e):
            raise
    else:
        raise Failed(f"not noticed: {what}")


@case("harness-disk", "the harness detects wrong bytes, an extra file and a missing file although the guest reports PASS")
def disk(lab):
    payload, destination = lab.payload(), lab.destination()
    spoilt = """
        printf x | dd of="$DEST/size-4097.bin" bs=1 seek=4000 conv=notrunc
        mv "$DEST/size-512.bin" "$DEST/other"
        sync
        pass
    """
    lab.boot(destination, [Disk(payload.path)], IMPORT.replace("pass\n", spoilt))
    _notices("size-512.bin is missing; other is there and should not be; size-4097.bin is", lab.holds, destination, payload.files)


@case("harness-guest", "the harness detects a guest without a verdict, a guest that hangs, and a guest that panics", quick=True)
def guest(lab):
    _notices("ended with status 7 and no verdict", lab.boot, None, [], "exit 7")
    _notices("said with reason", lab.boot, None, [], 'fail "said with reason"')
    _notices("ended with 1 instead of 0", lab.boot, None, [], "exits 0 lbpayload import /none")
    _notices("before the guest's verdict", lab.boot, None, [], "with_proc; echo c > /proc/sysrq-trigger")
    with lab.machine(Setup([], "say started; sleep 1000")) as machine:
        machine.hear("started")
        _notices("no word from the guest", machine.verdict, silence=1)
