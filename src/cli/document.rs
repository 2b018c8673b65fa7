//! `lbpayload completions` and `lbpayload man`, generated from the same definition that parses
//! the command line.

use std::io::Write;
use std::path::Path;

use clap::CommandFactory;

use crate::durable::AtomicFile;
use crate::error::{Error, Result};

use super::args::Cli;
use super::exit::Outcome;
use super::output;

pub(super) fn completions(shell: clap_complete::Shell) -> Result<Outcome> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lbpayload", &mut text);
    output::to_stdout(&text)?;
    Ok(Outcome::Done)
}

pub(super) fn man(dir: Option<&Path>) -> Result<Outcome> {
    let mut root = Cli::command();
    root.build();
    let Some(dir) = dir else {
        output::to_stdout(&page(&root)?)?;
        return Ok(Outcome::Done);
    };
    let commands = root
        .get_subcommands()
        .filter(|c| c.get_name() != "help" && !c.is_hide_set());
    for command in std::iter::once(&root).chain(commands) {
        let name = clap_mangen::Man::new(command.clone()).get_filename();
        write_page(dir, &name, &page(command)?)?;
    }
    Ok(Outcome::Done)
}

fn page(command: &clap::Command) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut text)
        .map_err(|e| Error::io("render the manual page of", e).with_path(command.get_name()))?;
    Ok(text)
}

fn write_page(dir: &Path, name: &str, text: &[u8]) -> Result<()> {
    let path = dir.join(name);
    let mut file = AtomicFile::create(&path)?;
    file.write_all(text)
        .map_err(|e| Error::io("write", e).with_path(&path))?;
    file.commit()
}
