//! Plans the contents of a payload before anything is written.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Kind, Result, printable};
use crate::format::{Dialect, EMBEDDED_SIGNATURE, EMBEDDED_SUMS, Name, REFERENCE_MAX_FILES};
use crate::payload::{Checksums, EMBEDDED_SUMS_MAX_BYTES, Sha256Sum, sum_line};
use crate::protection::{DEFAULT_MEMORY, Geometry};

use super::inputs::{Input, Inputs, collect, nothing_in};
use super::report::Report;
use super::signer::Signer;

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
    /// What signs these checksums, in an entry `SHA256SUMS.minisig` behind them.
    pub signer: Option<Signer>,
    /// The image is padded to a multiple of this many bytes.
    pub pad: Option<u64>,
    /// Whether a payload without files is allowed.
    pub allow_empty: bool,
    /// Whether what was written is read back and compared. `None` means that this is done for
    /// devices.
    pub verify: Option<bool>,
    /// Whether to compute the checksum of the image for the report.
    pub sum_image: bool,
    /// The redundancy of a protection trailer in percent, 1 to 50. `None` means no trailer.
    pub protect: Option<u32>,
    /// The memory limit for writing the trailer, in bytes. `None` means 192 MiB.
    pub memory: Option<usize>,
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
    /// The length of the payload and its padding or its protection trailer in bytes.
    pub image_bytes: u64,
    pub(super) geometry: Option<Geometry>,
    pub(super) memory: usize,
    pub(super) embed: bool,
    pub(super) signer: Option<Signer>,
    pub(super) verify: Option<bool>,
    pub(super) sum_image: bool,
    checksums: Option<Checksums>,
}

/// Plans a payload: determines the names, sizes and order of its files, and checks that
/// everything fits the dialect.
///
/// # Errors
/// A path, a name, a list or a manifest is invalid, two files have the same name, or
/// something does not fit the dialect.
pub fn plan(inputs: &Inputs, mut options: Options) -> Result<Plan> {
    let mut checksums = options.checksums.take();
    let files = collect(inputs, &mut checksums)?;
    if files.is_empty() && !options.allow_empty {
        return Err(nothing_in(inputs));
    }
    let inputs = files;
    refuse_repeats(&inputs, options.embed, options.signer.is_some())?;
    if let Some(sums) = &checksums {
        refuse_unlisted(&inputs, sums)?;
    }
    if inputs.len() as u64 > REFERENCE_MAX_FILES {
        log::warn!(
            "{} files: the reference importer refuses more than {REFERENCE_MAX_FILES}",
            inputs.len()
        );
    }
    lengths(inputs, options, checksums)
}

impl Plan {
    /// Returns the number of entries, including the embedded checksums.
    pub fn files(&self) -> u64 {
        self.inputs.len() as u64 + u64::from(self.embed) + u64::from(self.signer.is_some())
    }

    /// Returns the input whose header or data is at this offset of the payload.
    pub(super) fn input_at(&self, offset: u64) -> Option<&Input> {
        let mut end = self.dialect.header_len();
        self.inputs.iter().find(|input| {
            let name = input.name.as_str().len() as u64;
            end += self.dialect.entry_header_len() + name + input.size;
            offset < end
        })
    }

    /// Passes on the headers of the payload, one after the other.
    pub(super) fn headers<E>(
        &self,
        each: &mut dyn FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut bytes = Vec::new();
        // The plan has checked that everything fits.
        let _ = self.dialect.put_header(self.files(), &mut bytes);
        let mut left = self.payload_bytes - self.dialect.header_len();
        for input in &self.inputs {
            let _ = self.dialect.put_entry(&input.name, input.size, &mut bytes);
            let name = input.name.as_str().len() as u64;
            left -= self.dialect.entry_header_len() + name + input.size;
            if bytes.len() > 64 * 1024 {
                each(&bytes)?;
                bytes.clear();
            }
        }
        if let (true, Ok(name)) = (self.embed, embedded_name()) {
            let signature = self.signer.as_ref().map_or(0, |signer| {
                let name = EMBEDDED_SIGNATURE.len() as u64;
                self.dialect.entry_header_len() + name + signer.len()
            });
            let header = self.dialect.entry_header_len() + EMBEDDED_SUMS.len() as u64;
            let _ = self
                .dialect
                .put_entry(&name, left - signature - header, &mut bytes);
        }
        if let (Some(signer), Ok(name)) = (&self.signer, signature_name()) {
            let _ = self.dialect.put_entry(&name, signer.len(), &mut bytes);
        }
        each(&bytes)
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

    /// Returns the report of writing this plan, without what is known only afterwards.
    pub fn report(&self) -> Report {
        Report {
            dialect: self.dialect,
            files: self.files(),
            payload_bytes: self.payload_bytes,
            image_bytes: self.image_bytes,
            verified: false,
            protect: self.geometry.as_ref().map(Geometry::percent),
            sha256: None,
        }
    }

    /// Refuses an output that is one of the inputs.
    ///
    /// # Errors
    /// The file at `out` is an input.
    pub fn refuse_output_among_inputs(&self, out: &Path) -> Result<()> {
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

fn unlisted(input: &Input) -> Error {
    Error::new(Kind::Checksum, "no checksum is given for it")
        .with_code("no-checksum")
        .with_path(&input.path)
        .advice("add its line to the checksums")
}

fn refuse_repeats(inputs: &[Input], embed: bool, sign: bool) -> Result<()> {
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
    if let (Some(path), true) = (seen.get(&signature_name()?), sign) {
        return Err(Error::new(
            Kind::Refused,
            format!("the signature becomes `{EMBEDDED_SIGNATURE}`, one is given already"),
        )
        .with_code("name-repeated")
        .with_path(path)
        .advice("leave out the file, or do not sign"));
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
            format!("the checksums are embedded as `{EMBEDDED_SUMS}`, one is given already"),
        )
        .with_code("name-repeated")
        .with_path(path)
        .advice("leave out the file, or do not embed the checksums")),
        None => Ok(()),
    }
}

fn embedded_name() -> Result<Name> {
    Name::new(EMBEDDED_SUMS.as_bytes()).map_err(|e| Error::new(Kind::Refused, e.to_string()))
}

pub(super) fn signature_name() -> Result<Name> {
    Name::new(EMBEDDED_SIGNATURE.as_bytes()).map_err(|e| Error::new(Kind::Refused, e.to_string()))
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

fn lengths(inputs: Vec<Input>, options: Options, checksums: Option<Checksums>) -> Result<Plan> {
    let Options { dialect, embed, .. } = options;
    let signature_bytes = options.signer.as_ref().map(Signer::len);
    let overflow = || Error::new(Kind::Refused, "the sizes overflow 64 bits when added");
    // The writer would detect this too, but only in the middle of the payload.
    let count = inputs.len() as u64 + u64::from(embed) + u64::from(signature_bytes.is_some());
    dialect.put_header(count, &mut Vec::new()).map_err(|e| {
        Error::new(Kind::Refused, format!("too many files: {e}"))
            .with_code("too-large")
            .advice("use the dialect u64")
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
                    .advice("use the dialect u64")
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
            .advice("pack fewer files, or do not embed the checksums"));
        }
        add(EMBEDDED_SUMS.len(), sums_bytes, false).ok_or_else(overflow)?;
    }
    if let Some(bytes) = signature_bytes {
        add(EMBEDDED_SIGNATURE.len(), bytes, false).ok_or_else(overflow)?;
    }
    let geometry = match options.protect {
        Some(percent) => {
            let own_bytes = if embed { sums_bytes } else { 0 } + signature_bytes.unwrap_or(0);
            let headers = payload_bytes - data_bytes - own_bytes;
            Some(Geometry::plan(payload_bytes, headers, percent).ok_or_else(overflow)?)
        }
        None => None,
    };
    let image_bytes = match options.pad {
        _ if geometry.is_some() => geometry.as_ref().map_or(0, Geometry::end),
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
        geometry,
        memory: options.memory.unwrap_or(DEFAULT_MEMORY),
        embed,
        signer: options.signer,
        verify: options.verify,
        sum_image: options.sum_image,
        checksums,
    })
}
