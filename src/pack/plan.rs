//! Plans the contents of a payload before anything is written.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::block::file_type_name;
use crate::durable::AtomicFile;
use crate::error::{Error, Kind, Result, printable};
use crate::format::{Dialect, EMBEDDED_SUMS, Name, REFERENCE_MAX_FILES};
use crate::payload::{Checksums, EMBEDDED_SUMS_MAX_BYTES, Sha256Sum, bootstrap_sources, sum_line};

use super::list::parse_list;

/// The source of the files.
#[derive(Debug, Clone)]
pub enum Inputs {
    /// Files, or directories whose regular files are packed, sorted by name.
    Paths(Vec<PathBuf>),
    /// The lines of an `external.list`, in their order.
    List(PathBuf),
    /// The files that a live-bootstrap checkout needs after its import, sorted by name.
    Bootstrap(PathBuf),
}

/// How the payload is written.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Options {
    /// The dialect, which is the width of the integers.
    pub dialect: Dialect,
    /// The checksums that every input must match. `None` means that nothing is checked.
    pub checksums: Option<Checksums>,
    /// Whether to add an entry `SHA256SUMS` with the checksums of all other entries.
    pub embed: bool,
    /// The image is padded to a multiple of this many bytes.
    pub pad: Option<u64>,
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
    id: (u64, u64),
}

/// The plan of a payload: all its contents, in order.
#[derive(Debug)]
pub struct Plan {
    /// The files to pack.
    pub inputs: Vec<Input>,
    /// The dialect, which is the width of the integers.
    pub dialect: Dialect,
    /// The number of bytes of all inputs.
    pub data_bytes: u64,
    /// The length of the payload in bytes.
    pub payload_bytes: u64,
    /// The length of the payload and its padding in bytes.
    pub image_bytes: u64,
    pub(super) embed: bool,
    checksums: Option<Checksums>,
}

/// Plans a payload: determines the names, sizes and order of its files, and checks that
/// everything fits the dialect.
///
/// # Errors
/// A path, a name, a list or a manifest is invalid, two files have the same name, or
/// something does not fit the dialect.
pub fn plan(inputs: &Inputs, options: Options) -> Result<Plan> {
    let mut checksums = options.checksums;
    let inputs = match inputs {
        Inputs::Paths(paths) => sorted(from_paths(paths)?),
        Inputs::List(path) => {
            let text = fs::read(path).map_err(|e| {
                Error::io("read", e)
                    .with_path(path)
                    .advice("check the path of the list")
            })?;
            let lines = parse_list(&text, path)?;
            refuse_repeated_lines(&lines, path)?;
            lines
                .into_iter()
                .map(|(line, name, file)| input(name, file).map_err(|e| of_line(path, line, &e)))
                .collect::<Result<_>>()?
        }
        Inputs::Bootstrap(dir) => {
            let sources = bootstrap_sources(dir)?;
            if sources.cut.is_none() {
                log::warn!(
                    "{}: neither \"improve: import_payload\" nor an improve that names the \
                     network in its manifest; packing the files of every build",
                    dir.display()
                );
            }
            let named = sources
                .files
                .iter()
                .map(|(name, sum)| (name.as_str(), *sum));
            let sums = checksums.get_or_insert_default();
            sums.add(named, &dir.join("steps").join("manifest"))?;
            let distfiles = dir.join("distfiles");
            sources
                .files
                .into_keys()
                .map(|name| input(name.clone(), distfiles.join(name.as_str())))
                .collect::<Result<_>>()?
        }
    };
    refuse_repeats(&inputs, options.embed)?;
    if let Some(sums) = &checksums {
        refuse_unlisted(&inputs, sums)?;
    }
    if inputs.len() as u64 > REFERENCE_MAX_FILES {
        log::warn!(
            "{} files: the reference importer refuses more than {REFERENCE_MAX_FILES}",
            inputs.len()
        );
    }
    lengths(
        inputs,
        options.dialect,
        options.embed,
        options.pad,
        checksums,
    )
}

impl Plan {
    /// Returns the number of entries, including the embedded checksums.
    pub fn files(&self) -> u64 {
        self.inputs.len() as u64 + u64::from(self.embed)
    }

    pub(super) fn hashes(&self) -> bool {
        self.embed || self.checksums.is_some()
    }

    pub(super) fn check(&self, input: &Input, found: Sha256Sum) -> Result<()> {
        let Some(sums) = &self.checksums else {
            return Ok(());
        };
        match sums.get(input.name.as_str()) {
            Some(expected) if expected == found => Ok(()),
            Some(expected) => Err(Error::new(
                Kind::Checksum,
                "its checksum does not match".to_owned(),
            )
            .note(format!("expected {expected}"))
            .note(format!("found {found}"))
            .with_path(&input.path)
            .advice("get the file again")),
            None => Err(unlisted(input)),
        }
    }

    pub(super) fn refuse_output_among_inputs(&self, out: &Path) -> Result<()> {
        let Ok(meta) = fs::metadata(out) else {
            return Ok(());
        };
        match self
            .inputs
            .iter()
            .find(|input| input.id == (meta.dev(), meta.ino()))
        {
            None => Ok(()),
            Some(input) => Err(Error::new(
                Kind::Refused,
                format!("the output is also an input, as `{}`", input.name),
            )
            .with_code("output-is-input")
            .with_path(out)
            .advice("write to another directory, or list the inputs one by one")),
        }
    }
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

fn unlisted(input: &Input) -> Error {
    Error::new(Kind::Checksum, "no checksum is given for it")
        .with_code("no-checksum")
        .with_path(&input.path)
        .advice("add its line to the checksums, or leave out --checksums")
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

fn refuse_repeats(inputs: &[Input], embed: bool) -> Result<()> {
    let mut seen: HashMap<&Name, &Path> = HashMap::with_capacity(inputs.len());
    for input in inputs {
        if let Some(first) = seen.insert(&input.name, &input.path) {
            return Err(Error::new(
                Kind::Refused,
                format!(
                    "the name `{}` is already used by `{}`",
                    input.name,
                    printable(&first.to_string_lossy())
                ),
            )
            .with_code("name-repeated")
            .with_path(&input.path)
            .advice("rename one of them, a payload has no directories"));
        }
    }
    match seen.get(&embedded_name()?) {
        Some(path) if !embed => {
            log::warn!(
                "{}: this file will be read as the checksums of the others",
                path.display()
            );
            Ok(())
        }
        Some(path) => Err(Error::new(
            Kind::Refused,
            format!("--embed-checksums adds a file `{EMBEDDED_SUMS}`, one is given already"),
        )
        .with_code("name-repeated")
        .with_path(path)
        .advice("leave out the file or --embed-checksums")),
        None => Ok(()),
    }
}

fn embedded_name() -> Result<Name> {
    Name::new(EMBEDDED_SUMS.as_bytes()).map_err(|e| Error::new(Kind::Refused, e.to_string()))
}

fn refuse_unlisted(inputs: &[Input], sums: &Checksums) -> Result<()> {
    match inputs
        .iter()
        .find(|input| sums.get(input.name.as_str()).is_none())
    {
        Some(input) => Err(unlisted(input)),
        None => Ok(()),
    }
}

fn lengths(
    inputs: Vec<Input>,
    dialect: Dialect,
    embed: bool,
    pad: Option<u64>,
    checksums: Option<Checksums>,
) -> Result<Plan> {
    let overflow = || Error::new(Kind::Refused, "the sizes overflow 64 bits when added");
    // The writer would detect this too, but only in the middle of the payload.
    let count = inputs.len() as u64 + u64::from(embed);
    dialect.put_header(count, &mut Vec::new()).map_err(|e| {
        Error::new(Kind::Refused, format!("too many files: {e}"))
            .with_code("too-large")
            .advice("use the default, `--dialect u64`")
    })?;
    let mut sums_bytes = 0;
    let (mut data_bytes, mut payload_bytes) = (0_u64, dialect.header_len());
    let mut add = |name_len: usize, size: u64, data: bool| {
        let head = dialect.entry_header_len() + name_len as u64;
        payload_bytes = payload_bytes.checked_add(head)?.checked_add(size)?;
        data_bytes += if data { size } else { 0 };
        Some(())
    };
    for input in &inputs {
        dialect
            .put_entry(&input.name, input.size, &mut Vec::new())
            .map_err(|e| {
                Error::new(Kind::Refused, format!("too large: {e}"))
                    .with_code("too-large")
                    .with_path(&input.path)
                    .advice("use the default, `--dialect u64`")
            })?;
        add(input.name.as_str().len(), input.size, true).ok_or_else(overflow)?;
        sums_bytes += sum_line(Sha256Sum([0; 32]), input.name.as_str()).len() as u64;
    }
    if embed {
        if sums_bytes > EMBEDDED_SUMS_MAX_BYTES {
            return Err(Error::new(
                Kind::Refused,
                format!(
                    "the checksums to embed need {sums_bytes} bytes, readers accept at most \
                     {EMBEDDED_SUMS_MAX_BYTES}"
                ),
            )
            .advice("pack fewer files, or leave out --embed-checksums"));
        }
        add(EMBEDDED_SUMS.len(), sums_bytes, false).ok_or_else(overflow)?;
    }
    let image_bytes = match pad {
        Some(pad) => payload_bytes
            .checked_next_multiple_of(pad)
            .ok_or_else(overflow)?,
        None => payload_bytes,
    };
    Ok(Plan {
        inputs,
        dialect,
        data_bytes,
        payload_bytes,
        image_bytes,
        embed,
        checksums,
    })
}
