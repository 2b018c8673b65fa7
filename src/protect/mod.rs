//! Adds a protection trailer to a payload and takes it away, and repairs a protected payload.

mod add;
mod fixing_target;
mod opened;
mod repair;
mod stream;

pub use add::{Options, Report, protect, unprotect, walk, walked};
pub use repair::{RepairOptions, RepairReport, repair, repair_into, repair_source};
