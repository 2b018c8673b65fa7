//! Carries files on raw disks and gets them off again.
//!
//! `cargo install lbpayload` needs libudev (Debian's package libudev-dev, for block-utils) and a C
//! compiler. Without libudev: `cargo install lbpayload --no-default-features --features cli,net`.
//! `probe` then reads udev's database itself, and shows the same.
//!
//! The library behind the `lbpayload` program: it reads, writes, verifies and imports
//! payloads, which are files in a raw container (magic `LBPAYLD1`) on a disk or in an
//! image.
//!
//! Write a payload, and read it again:
//!
//! ```
//! use lbpayload::block::SourceOptions;
//! use lbpayload::pack::{self, Inputs};
//! use lbpayload::payload::{EntryReader, Payload};
//! use std::io::Read;
//! use lbpayload::progress::Silent;
//!
//! # fn main() -> lbpayload::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let dir = dir.path();
//! std::fs::write(dir.join("hello"), "hello, world").unwrap();
//! let inputs = Inputs::Paths(vec![dir.join("hello")]);
//! let plan = pack::plan(&inputs, pack::Options::default())?;
//! pack::to_file(&plan, &dir.join("external.img"), &Silent)?;
//!
//! let source = SourceOptions::default().open(&dir.join("external.img"))?;
//! let payload = Payload::open(source)?;
//! for entry in payload.walk()? {
//!     let entry = entry.map_err(|problem| problem.into_error(&**payload.source()))?;
//!     let mut bytes = Vec::new();
//!     EntryReader::new(&payload, &entry)?.read_to_end(&mut bytes).unwrap();
//!     assert_eq!(entry.raw_name, b"hello");
//!     assert_eq!(bytes, b"hello, world");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Import it into a directory, where each file appears complete and on stable storage or
//! not at all:
//!
//! ```
//! # use lbpayload::pack::{self, Inputs};
//! use lbpayload::block::SourceOptions;
//! use lbpayload::import::{Options, import};
//! use lbpayload::payload::Payload;
//! use lbpayload::progress::Silent;
//!
//! # fn main() -> lbpayload::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let dir = dir.path();
//! # std::fs::write(dir.join("hello"), "hello, world").unwrap();
//! # let inputs = Inputs::Paths(vec![dir.join("hello")]);
//! # let plan = pack::plan(&inputs, pack::Options::default())?;
//! # let image = dir.join("external.img");
//! # pack::to_file(&plan, &image, &Silent)?;
//! let payload = Payload::open(SourceOptions::default().open(&image)?)?;
//! let mut options = Options::default();
//! options.dest = dir.join("distfiles");
//! let report = import(&payload, options, &Silent, None)?;
//! assert_eq!(report.written, 1);
//! # Ok(())
//! # }
//! ```
//!
//! Every failure is an [`Error`]: [`Error::kind`] and [`Error::code`] are for programs,
//! its text for people.
//!
//! # Features
//!
//! - `cli` (default): the program with all its commands. Its parts are features too: `bare`
//!   (`probe`, `import`, `verify`, `list`, `cat` and `payload-import`, for boot images),
//!   `mount`, `promote` and `sandbox`.
//! - `net` (default): `lbpayload fetch`, and payloads behind a URL.
//! - `udev` (default): asks libudev what udev knows of a device, for `lbpayload probe`. Without it
//!   the program reads udev's database itself.
//! - `internals`: shows what tests, fuzzing and simulation drive. No promise of any kind
//!   covers it.

// Without the program, what it shares with the library is not used.
#![cfg_attr(not(feature = "cli"), allow(dead_code, unused_imports))]

pub mod block;
#[cfg(feature = "bare")]
#[doc(hidden)]
pub mod cli;
pub mod diff;
#[cfg(not(feature = "internals"))]
mod durable;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod durable;
pub mod error;
#[cfg(all(feature = "net", not(feature = "internals")))]
mod fetch;
#[cfg(all(feature = "net", feature = "internals"))]
#[doc(hidden)]
pub mod fetch;
pub mod format;
pub mod import;
#[cfg(all(feature = "mount", not(feature = "internals")))]
mod mount;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod mount;
#[cfg(all(feature = "net", not(feature = "internals")))]
mod net;
#[cfg(all(feature = "net", feature = "internals"))]
#[doc(hidden)]
pub mod net;
pub mod pack;
pub mod payload;
#[cfg(all(feature = "bare", not(feature = "internals")))]
mod probe;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod probe;
pub mod progress;
#[cfg(all(feature = "promote", not(feature = "internals")))]
mod promote;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod promote;
pub mod protect;
pub mod protection;
#[cfg(feature = "bare")]
mod sandbox;
mod sync;
mod sys;
pub mod verify;

pub use error::{Error, Kind, Result};
#[cfg(feature = "bare")]
#[doc(hidden)]
pub use sys::Inherited;
