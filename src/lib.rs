//! Carries files on raw disks and gets them off again.
//!
//! The library behind the `lbpayload` program. ARCHITECTURE.md draws the rooms
//! and the arrows between them; FORMAT.md describes the container; SEMANTICS.md
//! states what a caller may rely on.

pub mod block;
pub mod cli;
pub mod durable;
pub mod error;
pub mod format;
pub mod import;
pub mod mount;
pub mod pack;
pub mod payload;
pub mod probe;
pub mod progress;
pub mod promote;
mod sys;
pub mod verify;

pub use error::{Error, Kind, Result};
