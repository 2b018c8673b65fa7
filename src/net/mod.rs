//! HTTP and HTTPS: what `fetch` downloads with, and payloads behind a URL.
//!
//! [`Client`] asks for one URL, or a range of it, and says in plain words why it did not get
//! it. Nothing in this room shows the password or the query of a URL.

mod answer;
mod client;
mod failure;
mod url;

pub use answer::Answer;
pub use client::Client;
pub use failure::{Cause, Failure};
pub use url::{Scheme, Url};
