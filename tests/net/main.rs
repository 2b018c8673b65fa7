//! `fetch`, and payloads behind a URL, over real sockets. All servers are on 127.0.0.1: nginx,
//! and one of our own that lies as asked.
#![cfg(feature = "net")]

#[path = "../support/mod.rs"]
mod support;

mod fetch;
mod fetch_faults;
mod fetch_killed;
mod fetch_memory;
mod fetch_messages;
mod fetch_resume;
mod fixture;
mod nginx;
mod proxy;
mod s3;
mod server;
mod url;
mod url_messages;
mod url_mount;
mod url_protected;
mod url_repair;
mod url_servers;
