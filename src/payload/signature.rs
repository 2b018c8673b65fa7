//! The signature of a payload: the entry `SHA256SUMS.minisig` behind `SHA256SUMS`, made by
//! minisign. It signs the checksums, and the checksums cover every other file.

use std::fmt;
use std::io::Read;
use std::path::Path;

use minisign_verify::{Error as Refusal, PublicKey, Signature};

use crate::error::{Error, Kind, Result, printable};
use crate::format::{EMBEDDED_SIGNATURE, EMBEDDED_SUMS};

use super::checksums::{Checksums, EMBEDDED_SUMS_MAX_BYTES};
use super::digest::Sha256Sum;
use super::index::Index;
use super::read::EntryReader;
use super::walk::{Entry, Payload};

/// The largest signature or public key that is read, in bytes. Those of minisign have about 300;
/// a comment can be longer.
pub const SIGNATURE_MAX_BYTES: u64 = 16 << 10;

/// The public keys of those who may sign a payload.
#[derive(Clone, Default)]
pub struct TrustedKeys(Vec<PublicKey>);

impl TrustedKeys {
    /// Adds a key: the path of a file that `minisign -G` wrote, or the text of the key itself, as
    /// `minisign -P` takes it.
    ///
    /// # Errors
    /// `key` is neither the text of a key nor a file that holds one, or the file cannot be read.
    pub fn add(&mut self, key: &str) -> Result<()> {
        if let Ok(key) = PublicKey::from_base64(key) {
            self.0.push(key);
            return Ok(());
        }
        let path = Path::new(key);
        let failed = |e| Error::io("read the public key", e).with_path(path);
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut text = String::new();
        file.take(SIGNATURE_MAX_BYTES)
            .read_to_string(&mut text)
            .map_err(failed)?;
        // A file with the line of the key alone is a key too.
        let key = PublicKey::decode(&text).or_else(|_| PublicKey::from_base64(text.trim()));
        let key = key.map_err(|_| {
            Error::new(Kind::Syntax, "not a public key of minisign")
                .with_path(path)
                .with_code("bad-key")
                .advice("`minisign -R` makes the public key of a secret key again")
        })?;
        self.0.push(key);
        Ok(())
    }

    /// Returns whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for TrustedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

/// Returns the checksums of a payload that one of `keys` has signed: one for each file,
/// including the checksums and the signature themselves.
///
/// Only the headers and these two entries are read. The caller compares the other files with
/// the checksums.
///
/// # Errors
/// The payload has no checksums or no signature, the signature is wrong or made by another key,
/// or a file is not in the checksums. Or an entry cannot be read.
pub fn signed_checksums(index: &Index, keys: &TrustedKeys) -> Result<Checksums> {
    signed_checksums_of(index.payload(), keys, || index.entries())
}

/// Does the same as [`signed_checksums`] for a payload whose entries are known from elsewhere.
/// `entries` is called twice, and must return all entries.
///
/// # Errors
/// The same as for [`signed_checksums`].
pub fn signed_checksums_of<I: Iterator<Item = Result<Entry>>>(
    payload: &Payload,
    keys: &TrustedKeys,
    entries: impl Fn() -> Result<I>,
) -> Result<Checksums> {
    let path = payload.source().path();
    let refuse = |code, what: &str| {
        Error::new(Kind::Refused, what)
            .with_path(path)
            .with_code(code)
    };
    let mut sums_entry = None;
    let mut signature_entry = None;
    for entry in entries()? {
        let entry = entry?;
        if entry.is_embedded_sums() {
            sums_entry = Some(entry);
        } else if entry.is_signature() {
            signature_entry = Some(entry);
        }
    }
    let (Some(sums_entry), Some(signature_entry)) = (sums_entry, signature_entry) else {
        return Err(refuse("not-signed", "the payload is not signed"));
    };
    let text = read_all(payload, &sums_entry, EMBEDDED_SUMS_MAX_BYTES)?;
    let signature_text = read_all(payload, &signature_entry, SIGNATURE_MAX_BYTES)?;
    let signature = std::str::from_utf8(&signature_text)
        .ok()
        .and_then(|text| Signature::decode(text).ok())
        .ok_or_else(|| {
            let what = format!("`{EMBEDDED_SIGNATURE}` is not a signature of minisign");
            refuse("bad-signature", &what)
        })?;
    let mut of_another_key = true;
    let mut signed = false;
    for key in &keys.0 {
        match key.verify(&text, &signature, true) {
            Ok(()) => signed = true,
            Err(Refusal::UnexpectedKeyId) => {}
            Err(_) => of_another_key = false,
        }
    }
    if !signed {
        let comment = signature.untrusted_comment();
        let comment = printable(
            comment
                .strip_prefix("untrusted comment: ")
                .unwrap_or(comment),
        );
        let what = format!("the signature does not match `{EMBEDDED_SUMS}`");
        return Err(match of_another_key {
            true => refuse("unknown-key", "signed by a key that is not trusted")
                .note(format!("the signature calls itself \"{comment}\"")),
            false => refuse("bad-signature", &what),
        });
    }
    let mut sums = Checksums::new();
    sums.add_lines(&text[..], &format!("{}, {EMBEDDED_SUMS}", path.display()))?;
    refuse_unlisted(entries()?, &sums, &refuse)?;
    let own = [
        (EMBEDDED_SUMS, Sha256Sum::of(&text)),
        (EMBEDDED_SIGNATURE, Sha256Sum::of(&signature_text)),
    ];
    sums.add(own, path)?;
    Ok(sums)
}

/// Refuses a payload with a file that the signed checksums do not cover.
fn refuse_unlisted(
    entries: impl Iterator<Item = Result<Entry>>,
    sums: &Checksums,
    refuse: &dyn Fn(&'static str, &str) -> Error,
) -> Result<()> {
    let mut first = None;
    let mut count = 0_u64;
    for entry in entries {
        let entry = entry?;
        if entry.is_embedded_sums() || entry.is_signature() {
            continue;
        }
        // The checksum is looked up by the shown name. The escaped form of one name can be
        // another name.
        let shown = entry.shown_name();
        let is_plain = entry.name().is_ok_and(|name| name.as_str() == shown);
        let listed = is_plain && sums.get(&shown).is_some();
        if !listed {
            count += 1;
            first.get_or_insert_with(|| printable(&entry.shown_name()));
        }
    }
    let Some(first) = first else {
        return Ok(());
    };
    let what = format!("`{first}` is not in the signed checksums");
    let error = refuse("unlisted-file", &what);
    Err(match count {
        1 => error,
        _ => error.note(format!("{count} files are not in them")),
    })
}

/// Reads a whole entry of at most `max` bytes.
fn read_all(payload: &Payload, entry: &Entry, max: u64) -> Result<Vec<u8>> {
    let path = payload.source().path();
    if entry.size > max {
        let what = format!(
            "`{}` has {} bytes, at most {max} are read",
            entry.shown_name(),
            entry.size
        );
        return Err(Error::new(Kind::Format, what).with_path(path));
    }
    let mut bytes = Vec::new();
    let mut reader = EntryReader::new(payload, entry)?;
    while let Some(block) = reader.next_block()? {
        bytes
            .try_reserve(block.len())
            .map_err(|_| Error::no_memory("hold the checksums"))?;
        bytes.extend_from_slice(block);
    }
    Ok(bytes)
}
