//! `lbpayload unmount`

use crate::error::Result;
use crate::mount::{IfBusy, unmount};

use super::args::UnmountArgs;
use super::exit::Outcome;

pub(super) fn run(args: &UnmountArgs) -> Result<Outcome> {
    let if_busy = if args.lazy {
        IfBusy::Detach
    } else {
        IfBusy::Fail
    };
    unmount(&args.dir, if_busy)?;
    Ok(Outcome::Done)
}
