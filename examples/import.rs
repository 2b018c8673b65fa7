//! Imports a payload into a directory: `cargo run --example import external.img out`
#![allow(clippy::print_stdout)]

use std::path::Path;

use lbpayload::block::SourceOptions;
use lbpayload::import::{Options, import};
use lbpayload::payload::Payload;
use lbpayload::progress::Silent;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [source, dest] = &args[..] else {
        return Err("usage: import IMAGE DIRECTORY".into());
    };
    let payload = Payload::open(SourceOptions::default().open(Path::new(source))?)?;
    let mut options = Options::default();
    options.dest = dest.into();
    let report = import(&payload, options, &Silent, None)?;
    println!("{} files written, {} kept", report.written, report.kept);
    for problem in report.failed {
        println!("{}", problem.into_error(&**payload.source()));
    }
    Ok(())
}
