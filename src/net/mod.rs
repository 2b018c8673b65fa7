//! HTTP and HTTPS: what `fetch` downloads with, and payloads behind a URL.
//!
//! [`Client`] asks for one URL, or a range of it, and says in plain words why it did not get
//! it. [`HttpSource`] is a payload behind a URL, as a [`Source`](crate::block::Source). Nothing in this room shows the password or the query of a URL.

mod answer;
mod cache;
mod client;
mod date;
mod failure;
mod object;
mod source;
mod url;

pub use answer::Answer;
#[cfg(feature = "internals")]
pub use answer::ContentRange;
pub use client::Client;
pub use failure::{Cause, Failure};
pub use source::{HttpOptions, HttpSource};
pub use url::{Scheme, Url};
