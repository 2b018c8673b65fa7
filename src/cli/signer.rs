//! The signature that `pack` adds: made with a secret key of minisign, or read from a file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine};
use minisign::{SecretKey, SecretKeyBox, sign};

use crate::error::{Error, Kind, Result};
use crate::format::EMBEDDED_SUMS;
use crate::pack::Signer;
use crate::payload::SIGNATURE_MAX_BYTES;

/// The variable that holds the password of a secret key, as in other programs that use minisign.
const PASSWORD: &str = "MINISIGN_PASSWORD";

/// Signs with the secret key in the file `path`.
pub(super) fn with_key(path: &Path) -> Result<Signer> {
    let key = secret_key(path)?;
    let make = move |text: &[u8]| {
        // Without a time, so that the length is known and two signatures differ in nothing else.
        let comment = format!("file:{EMBEDDED_SUMS}");
        let signed = sign(
            None,
            &key,
            text,
            Some(&comment),
            Some("signature by lbpayload"),
        )
        .map_err(|e| Error::new(Kind::Io, format!("the checksums cannot be signed: {e}")))?;
        Ok(signed.into_string().into_bytes())
    };
    let len = make(b"")?.len() as u64;
    Ok(Signer::new(len, make))
}

/// Takes the signature that was made elsewhere, from the file `path`.
pub(super) fn from_file(path: &Path) -> Result<Signer> {
    let text = read(path)?;
    minisign::SignatureBox::from_string(&text).map_err(|e| {
        Error::new(Kind::Syntax, format!("not a signature of minisign: {e}"))
            .with_code("bad-signature")
            .with_path(path)
    })?;
    let text = text.into_bytes();
    let len = text.len() as u64;
    Ok(Signer::new(len, move |_| Ok(text.clone())))
}

fn secret_key(path: &Path) -> Result<SecretKey> {
    let text = read(path)?;
    let boxed = || SecretKeyBox::from_string(&text);
    let bad = |why: &dyn std::fmt::Display| {
        Error::new(Kind::Syntax, format!("not a usable secret key: {why}"))
            .with_code("bad-key")
            .with_path(path)
    };
    if let Some(key) = plain_key(&text) {
        return Ok(key);
    }
    let password = match std::env::var(PASSWORD) {
        Ok(password) => password,
        Err(_) => rpassword::prompt_password(format!("Password of {}: ", path.display())).map_err(
            |e| {
                Error::io("read the password from the terminal", e)
                    .with_path(path)
                    .advice(format!("set {PASSWORD}"))
            },
        )?,
    };
    boxed()
        .and_then(|key| key.into_secret_key(Some(password)))
        .map_err(|e| bad(&e).advice("check the password"))
}

/// Returns a key that has no password. `minisign -G -W` leaves the checksum of such a key empty, so
/// the crate's own reader takes it for a damaged one.
fn plain_key(text: &str) -> Option<SecretKey> {
    let bytes = BASE64_STANDARD.decode(text.lines().nth(1)?.trim()).ok()?;
    let without_password = bytes.get(2..4) == Some(&[0, 0]);
    SecretKey::from_bytes(&bytes)
        .ok()
        .filter(|_| without_password)
}

fn read(path: &Path) -> Result<String> {
    let failed = |e| Error::io("read", e).with_path(path);
    let file = File::open(path).map_err(failed)?;
    let mut text = String::new();
    file.take(SIGNATURE_MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(failed)?;
    Ok(text)
}
