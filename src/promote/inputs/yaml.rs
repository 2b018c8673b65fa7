//! Reads the small YAML files of a workspace. They are not trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_ignored::Path as Field;
use serde_yaml_ng::Value;

use crate::block::file_type_name;
use crate::error::{Error, Kind, Result, printable};

/// The maximum size of a file in bytes. A module takes about 250 bytes of a manifest, so this is
/// enough for 250,000 of them.
const MAX_BYTES: u64 = 64 << 20;

/// The maximum number of brackets that may be open at once.
const MAX_OPEN: u32 = 1000;

/// The maximum number of lines, commas, opening brackets, dashes and colons. The parser keeps a
/// record of about 130 bytes for each of them, and more for its text. 100,000 artifacts have
/// 900,000.
const MAX_PARTS: u64 = 3_000_000;

/// The byte order mark that some editors put at the start of a file.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// A file that was read.
#[derive(Debug)]
pub(crate) struct Parsed<T> {
    pub(crate) value: T,
    pub(crate) text: Vec<u8>,
    /// The fields that `T` does not have, such as `artifacts[].size`, and how often they occur.
    pub(crate) unknown: BTreeMap<String, u64>,
    /// Whether the file starts with a byte order mark.
    pub(crate) has_mark: bool,
}

/// Reads `path`. Returns `Ok(None)` if there is no such file. Aliases are expanded at most as
/// often as the repetition limit of serde_yaml allows, so a bomb of aliases is a syntax error.
///
/// # Errors
/// The file cannot be read, is longer than 64 MiB, has a field twice, or does not have the form
/// of `T`. `advice` is the advice of these errors.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, advice: &str) -> Result<Option<Parsed<T>>> {
    let text = match read_bounded(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", e).with_path(path).advice(advice)),
    };
    parse(path, text, advice).map(Some)
}

/// Does the same as [`read`] with the text of the file.
///
/// # Errors
/// The same as for [`read`].
pub(crate) fn parse<T: DeserializeOwned>(
    path: &Path,
    text: Vec<u8>,
    advice: &str,
) -> Result<Parsed<T>> {
    let wrong = |message: &str| {
        Error::new(Kind::Syntax, message)
            .doing("read")
            .with_path(path)
            .advice(advice)
    };
    if let Some(message) = detect_excess(&text) {
        return Err(wrong(message));
    }
    let has_mark = text.starts_with(MARK);
    let yaml = without_mark(&text);
    let (mut unknown, mut seen, mut twice) = (BTreeMap::new(), BTreeSet::new(), None);
    let parsed = serde_ignored::deserialize(
        serde_yaml_ng::Deserializer::from_slice(yaml),
        |field: Field<'_>| {
            if !seen.insert(field.to_string()) {
                twice.get_or_insert_with(|| field.to_string());
            }
            *unknown.entry(without_indexes(&field)).or_insert(0) += 1;
        },
    );
    let value = parsed.map_err(|e| {
        // The message may quote the file, so it is made short and printable.
        let said: String = e.to_string().chars().take(300).collect();
        wrong(&printable(&said))
    })?;
    match twice {
        Some(field) => Err(wrong(&format!("duplicate field `{}`", printable(&field)))),
        None => Ok(Parsed {
            value,
            has_mark,
            text,
            unknown,
        }),
    }
}

/// Returns the text behind the byte order mark.
pub(crate) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(MARK).unwrap_or(text)
}

/// Returns the name of a field, with `[]` for the position in a list.
fn without_indexes(field: &Field<'_>) -> String {
    match field {
        Field::Root => String::new(),
        Field::Seq { parent, .. } => without_indexes(parent) + "[]",
        Field::Map { parent, key } => match without_indexes(parent) {
            above if above.is_empty() => key.clone(),
            above => format!("{above}.{key}"),
        },
        Field::Some { parent }
        | Field::NewtypeStruct { parent }
        | Field::NewtypeVariant { parent } => without_indexes(parent),
    }
}

/// A field that promote can do without, as YAML reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Scalar {
    /// The field is missing.
    #[default]
    Missing,
    /// It is null, or it has no value.
    Null,
    /// A text.
    Text(String),
    /// A number or a boolean. The text may differ from how it is written.
    Other(String),
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct AnyScalar;
        impl Visitor<'_> for AnyScalar {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string (in quotes if necessary)")
            }

            fn visit_str<E>(self, text: &str) -> std::result::Result<Scalar, E> {
                Ok(Scalar::Text(text.to_owned()))
            }

            fn visit_unit<E>(self) -> std::result::Result<Scalar, E> {
                Ok(Scalar::Null)
            }

            fn visit_bool<E>(self, value: bool) -> std::result::Result<Scalar, E> {
                Ok(Scalar::Other(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> std::result::Result<Scalar, E> {
                Ok(Scalar::Other(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> std::result::Result<Scalar, E> {
                Ok(Scalar::Other(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> std::result::Result<Scalar, E> {
                Ok(Scalar::Other(value.to_string()))
            }
        }
        deserializer.deserialize_any(AnyScalar)
    }
}

/// A string that YAML does not read as a number, a boolean or null. For the type String,
/// serde_yaml accepts these too, as they are written.
#[derive(Debug)]
pub(crate) struct Text(pub(crate) String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match Scalar::deserialize(deserializer)? {
            Scalar::Text(text) => Ok(Self(text)),
            _ => Err(serde::de::Error::custom(
                "invalid type, expected a string (in quotes if necessary)",
            )),
        }
    }
}

/// A map of texts, as they are written, in which each key occurs once. `None` stands for null.
#[derive(Debug, Default)]
pub(crate) struct Unique(pub(crate) BTreeMap<String, Option<String>>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct UniqueKeys;
        impl<'de> Visitor<'de> for UniqueKeys {
            type Value = Unique;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Unique, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, Option<String>>()? {
                    if entries.contains_key(&key) {
                        let message = format!("duplicate field `{}`", printable(&key));
                        return Err(serde::de::Error::custom(message));
                    }
                    entries.insert(key, value);
                }
                Ok(Unique(entries))
            }
        }
        deserializer.deserialize_map(UniqueKeys)
    }
}

/// Names in one of the forms that people write: a list of names, a list of maps, a map, or one
/// name. Of maps, the keys are the names.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) names: Vec<String>,
    /// The form, if it is not a list of maps with one key each.
    pub(crate) form: Option<&'static str>,
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct AnyForm;
        impl<'de> Visitor<'de> for AnyForm {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_unit<E>(self) -> std::result::Result<Names, E> {
                Ok(Names::default())
            }

            fn visit_str<E>(self, name: &str) -> std::result::Result<Names, E> {
                Ok(Names {
                    names: vec![name.to_owned()],
                    form: Some("is a text"),
                })
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, _)) = map.next_entry::<String, Value>()? {
                    names.push(name);
                }
                let form = Some("is a map");
                Ok(Names { names, form })
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut list: A,
            ) -> std::result::Result<Names, A::Error> {
                let mut all = Names::default();
                while let Some(item) = list.next_element::<Names>()? {
                    if item.form != Some("is a map") {
                        all.form = Some("has an entry that is not a map");
                    } else if item.names.len() != 1 {
                        all.form = Some("has a map without exactly one repository");
                    }
                    all.names.extend(item.names);
                }
                Ok(all)
            }
        }
        deserializer.deserialize_any(AnyForm)
    }
}

/// Returns what is wrong with a text that the parser would take too long or too much memory for.
/// The time of libyaml grows with the square of the number of brackets that are open at once.
/// Brackets in strings and comments count too, but no manifest has a thousand of them.
fn detect_excess(text: &[u8]) -> Option<&'static str> {
    let (mut open, mut parts) = (0u32, 0u64);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'\n' | b',' => parts += 1,
            b'[' | b'{' => {
                (parts, open) = (parts + 1, open + 1);
                if open > MAX_OPEN {
                    return Some("brackets are nested too deeply");
                }
            }
            b']' | b'}' => open = open.saturating_sub(1),
            b'-' | b':' | b'?' => {
                let is_part = matches!(text.get(at + 1), Some(b' ' | b'\t' | b'\n'));
                parts += u64::from(is_part);
            }
            _ => {}
        }
    }
    (parts > MAX_PARTS).then_some("more than 3,000,000 values")
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
            "longer than 64 MiB",
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
        assert!(error.to_string().contains("64 MiB"), "{error}");
        assert!(read::<Anything>(dir.path(), "rebuild").is_err());
        let missing = read::<Anything>(&dir.path().join("none"), "rebuild").unwrap();
        assert!(missing.is_none());
    }

    #[test]
    fn unknown_fields_are_counted_and_a_second_one_of_the_same_name_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            read::<Anything>(file.path(), "rebuild")
        };
        let parsed = read("a: 1\nb: 2\nc: [3]\n").unwrap().unwrap();
        let unknown: Vec<_> = parsed.unknown.into_iter().collect();
        assert_eq!(unknown, [("b".into(), 1), ("c".into(), 1)]);
        for text in ["a: 1\nb: 2\nb: 3\n", "a: 1\na: 2\n"] {
            let error = read(text).unwrap_err();
            assert!(error.to_string().contains("duplicate field"), "{error}");
        }
    }

    #[test]
    fn a_file_of_many_small_values_is_refused_before_it_is_parsed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for many in ["-\n", "- ", "[],", "? "] {
            std::fs::write(file.path(), many.repeat(4_000_000)).unwrap();
            let error = read::<Anything>(file.path(), "rebuild").unwrap_err();
            assert!(error.to_string().contains("3,000,000"), "{error}");
        }
    }
}
