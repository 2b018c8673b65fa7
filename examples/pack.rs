//! Packs files into an image: `cargo run --example pack external.img FILE...`
#![allow(clippy::print_stdout)]

use std::path::Path;

use lbpayload::pack::{Inputs, Options, plan, to_file};
use lbpayload::progress::Silent;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let image = args.next().ok_or("usage: pack IMAGE FILE...")?;
    let mut options = Options::default();
    options.embed = true;
    let plan = plan(&Inputs::Paths(args.map(Into::into).collect()), options)?;
    let report = to_file(&plan, Path::new(&image), &Silent)?;
    println!("{} files, {} bytes", report.files, report.payload_bytes);
    Ok(())
}
