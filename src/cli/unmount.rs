//! `lbpayload unmount`

use crate::error::Result;
use crate::mount::{Users, unmount};

use super::args::UnmountArgs;
use super::exit::Outcome;

pub(super) fn run(args: &UnmountArgs) -> Result<Outcome> {
    let users = if args.lazy {
        Users::Leave
    } else {
        Users::Refuse
    };
    unmount(&args.dir, users)?;
    Ok(Outcome::Done)
}
