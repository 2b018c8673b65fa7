//! Lists the files of a payload: `cargo run --example list external.img`
#![allow(clippy::print_stdout)]

use std::path::Path;

use lbpayload::block::SourceOptions;
use lbpayload::payload::Payload;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: list IMAGE")?;
    let payload = Payload::open(SourceOptions::default().open(Path::new(&path))?)?;
    for entry in payload.walk()? {
        let entry = entry.map_err(|problem| problem.into_error(&**payload.source()))?;
        println!("{:>12} {}", entry.size, entry.shown_name());
    }
    Ok(())
}
