//! Reads the small YAML files of a workspace. They are not trusted.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer};

use crate::block::file_type_name;
use crate::error::{Error, Kind, Result, printable};

/// The maximum size of a file in bytes. No pointer, profile or manifest is larger: a module takes
/// about 200 bytes of a manifest.
const MAX_BYTES: u64 = 16 << 20;

/// The maximum number of brackets that may be open at once.
const MAX_OPEN: u32 = 1000;

/// Reads `path`. Returns `Ok(None)` if there is no such file. Aliases are expanded at most as
/// often as the repetition limit of serde_yaml allows, so a bomb of aliases is a syntax error.
///
/// # Errors
/// The file cannot be read, is longer than 16 MiB, or does not have the form of `T`. `advice` is
/// the advice of these errors.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, advice: &str) -> Result<Option<(T, Vec<u8>)>> {
    let text = match read_bounded(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", e).with_path(path).advice(advice)),
    };
    let wrong = |message: &str| {
        Error::new(Kind::Syntax, message)
            .doing("read")
            .with_path(path)
            .advice(advice)
    };
    if is_too_deep(&text) {
        return Err(wrong("brackets are nested too deeply"));
    }
    match serde_yaml_ng::from_slice(&text) {
        Ok(value) => Ok(Some((value, text))),
        Err(e) => {
            // The message may quote the file, so it is made short and printable.
            let said: String = e.to_string().chars().take(300).collect();
            Err(wrong(&printable(&said)))
        }
    }
}

/// A string that YAML does not read as a number, a boolean or null. For the type String,
/// serde_yaml accepts these too, as they are written.
#[derive(Debug)]
pub(crate) struct Text(pub(crate) String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct OnlyText;
        impl Visitor<'_> for OnlyText {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string (in quotes if necessary)")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Text, E> {
                Ok(Text(text.to_owned()))
            }
        }
        deserializer.deserialize_any(OnlyText)
    }
}

/// Returns whether too many brackets are open at once. The time that libyaml takes grows with the
/// square of this number. Brackets in strings and comments count too, but no manifest has a
/// thousand of them.
fn is_too_deep(text: &[u8]) -> bool {
    let mut open: u32 = 0;
    text.iter().any(|byte| {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        open > MAX_OPEN
    })
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a FIFO would wait for a writer.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() {
        let what = format!("expected a file, found {}", file_type_name(kind));
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "longer than 16 MiB",
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Anything {
        #[allow(dead_code)]
        a: Option<serde_yaml_ng::Value>,
    }

    #[test]
    fn a_bomb_of_aliases_ends_in_an_error() {
        let mut bomb = String::from("b0: &b0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..30 {
            let before = i - 1;
            let many = vec![format!("*b{before}"); 10].join(",");
            bomb.push_str(&format!("b{i}: &b{i} [{many}]\n"));
        }
        bomb.push_str("a: *b29\n");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bomb).unwrap();
        let error = read::<Anything>(file.path(), "rebuild").unwrap_err();
        assert_eq!(error.kind(), Kind::Syntax, "{error}");
        // The same, in a block that is not read.
        let other = "deep: ".to_owned() + &"[".repeat(100_000);
        std::fs::write(file.path(), other).unwrap();
        let error = read::<Anything>(file.path(), "rebuild").unwrap_err();
        assert!(error.to_string().contains("nested too deeply"), "{error}");
    }

    #[test]
    fn a_file_that_is_too_long_or_special_is_refused_and_a_missing_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("long");
        File::create(&long).unwrap().set_len(MAX_BYTES + 1).unwrap();
        let error = read::<Anything>(&long, "rebuild").unwrap_err();
        assert!(error.to_string().contains("16 MiB"), "{error}");
        assert!(read::<Anything>(dir.path(), "rebuild").is_err());
        let missing = read::<Anything>(&dir.path().join("none"), "rebuild").unwrap();
        assert!(missing.is_none());
    }
}
