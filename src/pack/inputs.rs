//! The files to pack: paths, a list, or what a live-bootstrap checkout needs.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::block::file_type_name;
use crate::durable::AtomicFile;
use crate::error::{Error, Kind, MissingFile, Result};
use crate::format::Name;
use crate::payload::{Checksums, bootstrap_sources};

use super::list::parse_list;

/// The source of the files.
#[derive(Debug, Clone)]
pub enum Inputs {
    /// Files, or directories whose regular files are packed, sorted by name.
    Paths(Vec<PathBuf>),
    /// The lines of an `external.list`, in their order.
    List(PathBuf),
    /// The text of an `external.list` that was read from standard input.
    ListText(Vec<u8>),
    /// The files that a live-bootstrap checkout needs after its import, sorted by name.
    Bootstrap(PathBuf),
}

/// A file to pack.
#[derive(Debug)]
pub struct Input {
    /// The name of its entry.
    pub name: Name,
    /// The path of the file.
    pub path: PathBuf,
    /// The size in bytes when it was planned.
    pub size: u64,
    pub(super) modified: (i64, i64),
    pub(super) id: (u64, u64),
}

/// Looks at all files to pack, in the order of the payload. Checksums that come with them are
/// added to `checksums`.
///
/// # Errors
/// A path, a name, a list or a manifest is invalid, or a file is missing.
pub(super) fn collect(inputs: &Inputs, checksums: &mut Option<Checksums>) -> Result<Vec<Input>> {
    match inputs {
        Inputs::Paths(paths) => Ok(sorted(from_paths(paths)?)),
        Inputs::List(path) => {
            let text = fs::read(path).map_err(|e| {
                Error::io("read", e)
                    .with_path(path)
                    .advice("check the path of the list")
            })?;
            from_list(&text, path)
        }
        Inputs::ListText(text) => from_list(text, Path::new("standard input")),
        Inputs::Bootstrap(dir) => from_bootstrap(dir, checksums),
    }
}

fn input(name: Name, path: PathBuf) -> Result<Input> {
    let meta = look_at(&path)?;
    if !meta.is_file() {
        let found = file_type_name(meta.file_type());
        return Err(
            Error::new(Kind::Refused, format!("expected a file, found {found}"))
                .with_code("not-a-file")
                .with_path(&path)
                .advice("only regular files can be packed, leave it out or name the files in it"),
        );
    }
    Ok(Input {
        name,
        size: meta.len(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        id: (meta.dev(), meta.ino()),
        path,
    })
}

fn look_at(path: &Path) -> Result<fs::Metadata> {
    fs::metadata(path).map_err(|e| {
        Error::io("read the attributes of", e)
            .with_path(path)
            .advice("nothing was written, check the path")
    })
}

fn from_list(text: &[u8], list: &Path) -> Result<Vec<Input>> {
    let lines = parse_list(text, list)?;
    refuse_repeated_lines(&lines, list)?;
    lines
        .into_iter()
        .map(|(line, name, file)| input(name, file).map_err(|e| of_line(list, line, &e)))
        .collect()
}

/// Returns the files that a live-bootstrap checkout needs after its import, and adds their
/// checksums. All missing files are reported at once.
fn from_bootstrap(dir: &Path, checksums: &mut Option<Checksums>) -> Result<Vec<Input>> {
    let sources = bootstrap_sources(dir)?;
    if sources.cut.is_none() {
        log::warn!(
            "{}: neither \"improve: import_payload\" nor an improve that names the network in \
             its manifest; packing the files of every build",
            dir.display()
        );
    }
    let sums = checksums.get_or_insert_default();
    sums.add(sources.sums(), &dir.join("steps").join("manifest"))?;
    let distfiles = dir.join("distfiles");
    let (mut inputs, mut missing) = (Vec::new(), Vec::new());
    let wanted = sources.files.len();
    for (name, file) in sources.files {
        let path = distfiles.join(name.as_str());
        match input(name.clone(), path) {
            Ok(input) => inputs.push(input),
            Err(e) if is_not_found(&e) => missing.push(MissingFile {
                name: name.as_str().to_owned(),
                url: file.urls.into_iter().next().unwrap_or_default(),
            }),
            Err(e) => return Err(e),
        }
    }
    if missing.is_empty() {
        return Ok(inputs);
    }
    let (count, shown) = (missing.len(), distfiles.display());
    Err(Error::new(Kind::Refused, String::new())
        .with_line(format!(
            "{count} of {wanted} files are missing in `{shown}`"
        ))
        .with_code("missing-distfiles")
        .with_path(&distfiles)
        .with_missing(missing)
        .advice(format!("download them into `{shown}`")))
}

fn is_not_found(error: &Error) -> bool {
    let source = error.io_error();
    source.is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

/// Returns the error for inputs without any file.
pub(super) fn nothing_in(inputs: &Inputs) -> Error {
    let error =
        Error::new(Kind::Refused, "there are no files to pack").with_code("nothing-to-pack");
    match inputs {
        Inputs::Paths(paths) => match paths.first() {
            Some(first) => error.with_path(first),
            None => error,
        },
        Inputs::List(path) | Inputs::Bootstrap(path) => error.with_path(path),
        Inputs::ListText(_) => error.with_path("standard input"),
    }
}

fn from_paths(paths: &[PathBuf]) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for path in paths {
        let meta = look_at(path)?;
        if meta.is_dir() {
            let failed = |e| Error::io("list", e).with_path(path);
            for entry in fs::read_dir(path).map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                if path.is_dir() {
                    return Err(
                        Error::new(Kind::Refused, "expected a file, found a subdirectory")
                            .with_code("subdirectory")
                            .with_path(&path)
                            .advice("name the files one by one, or move it away"),
                    );
                }
                let name = name_of(&path)?;
                if AtomicFile::is_download(name.as_str()) {
                    log::info!("left out: {}, an incomplete download", path.display());
                    continue;
                }
                if AtomicFile::is_leftover(name.as_str()) {
                    return Err(Error::new(
                        Kind::Refused,
                        "incomplete image of an interrupted pack",
                    )
                    .with_code("leftover")
                    .with_path(&path)
                    .advice(format!("`rm {}`", path.display())));
                }
                inputs.push(input(name, path)?);
            }
        } else {
            inputs.push(input(name_of(path)?, path.clone())?);
        }
    }
    Ok(inputs)
}

fn name_of(path: &Path) -> Result<Name> {
    let last = path.file_name().map_or(&b""[..], OsStrExt::as_bytes);
    Name::new(last).map_err(|e| {
        Error::new(Kind::Refused, e.to_string())
            .with_code("name-refused")
            .with_path(path)
            .advice("rename the file")
    })
}

fn sorted(mut inputs: Vec<Input>) -> Vec<Input> {
    inputs.sort_by(|a, b| a.name.cmp(&b.name));
    inputs
}

/// Returns an error about a file that is named in a line of the list.
fn of_line(list: &Path, line: u64, error: &Error) -> Error {
    in_line(list, line, &error.to_string())
        .with_code(error.code())
        .advice(error.help().unwrap_or("check the path in this line"))
}

fn in_line(list: &Path, line: u64, what: &str) -> Error {
    Error::new(Kind::Syntax, format!("line {line}: {what}")).with_path(list)
}

fn refuse_repeated_lines(lines: &[(u64, Name, PathBuf)], list: &Path) -> Result<()> {
    let mut seen: HashMap<&Name, u64> = HashMap::with_capacity(lines.len());
    for (line, name, _) in lines {
        if let Some(first) = seen.insert(name, *line) {
            let what = format!("the name `{name}` is already in line {first}");
            return Err(in_line(list, *line, &what)
                .with_code("name-repeated")
                .advice("give each file a name of its own"));
        }
    }
    Ok(())
}
