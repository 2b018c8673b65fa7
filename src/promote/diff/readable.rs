//! Turns the content of a file into text that people can compare.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use serde::Serialize;

use super::device_tree;
use crate::promote::coherence::Modinfo;

/// The size in bytes of the largest text or device tree that is compared.
const MAX_FILE: u64 = 1 << 20;

/// What a file contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Text in UTF-8, without control characters.
    Text,
    /// A flattened device tree, or an overlay for one.
    DeviceTree,
    /// A kernel module.
    Module,
    /// A symlink.
    Symlink,
    /// Anything else.
    Binary,
}

/// A content that may be shown as text.
pub(super) struct Readable {
    pub(super) kind: Kind,
    content: Content,
}

enum Content {
    Text(String),
    DeviceTree(Vec<u8>),
    None,
}

impl Readable {
    pub(super) fn symlink() -> Self {
        Self::without_text(Kind::Symlink)
    }

    fn without_text(kind: Kind) -> Self {
        let content = Content::None;
        Self { kind, content }
    }

    /// Reads a file. `path` tells whether it is a module.
    pub(super) fn read(path: &Path, mut file: &File) -> io::Result<Self> {
        file.rewind()?;
        let name = path.to_string_lossy();
        if [".ko", ".ko.gz", ".ko.xz", ".ko.zst"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            return Ok(match Modinfo::read(&name, file) {
                Ok(info) => Self {
                    kind: Kind::Module,
                    content: Content::Text(fields(&info)),
                },
                Err(e) if e.raw_os_error().is_some() => return Err(e),
                Err(_) => Self::without_text(Kind::Binary),
            });
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        let is_device_tree = bytes.starts_with(&device_tree::MAGIC);
        if bytes.len() as u64 > MAX_FILE {
            return Ok(Self::without_text(Kind::Binary));
        }
        if is_device_tree {
            return Ok(Self {
                kind: Kind::DeviceTree,
                content: Content::DeviceTree(bytes),
            });
        }
        let text = String::from_utf8(bytes).ok().filter(|text| is_text(text));
        Ok(match text {
            Some(text) => Self {
                kind: Kind::Text,
                content: Content::Text(text),
            },
            None => Self::without_text(Kind::Binary),
        })
    }

    /// Returns the text, or why there is none.
    pub(super) fn into_text(self) -> Result<String, String> {
        match self.content {
            Content::Text(text) => Ok(text),
            Content::DeviceTree(bytes) => device_tree::decompile(&bytes),
            Content::None => Err("it is not text".into()),
        }
    }
}

/// Returns whether a text can be shown on a terminal.
fn is_text(text: &str) -> bool {
    let is_plain = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\x0c');
    text.chars().all(is_plain)
}

/// Returns the fields of a module, one a line, without control characters.
fn fields(info: &Modinfo) -> String {
    let line =
        |(key, value): &(String, String)| crate::error::printable(&format!("{key}={value}")) + "\n";
    info.fields.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn kind(name: &str, bytes: &[u8]) -> Kind {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Readable::read(Path::new(name), &file).unwrap().kind
    }

    #[test]
    fn the_content_decides_the_kind() {
        assert_eq!(kind("a.conf", b"a\tb\r\n"), Kind::Text);
        assert_eq!(kind("a", b""), Kind::Text);
        assert_eq!(kind("a.txt", b"\x1b[31mred"), Kind::Binary);
        assert_eq!(kind("a.txt", b"\xff\xfe"), Kind::Binary);
        assert_eq!(kind("a.txt", &vec![b'a'; 1 << 20]), Kind::Text);
        assert_eq!(kind("a.txt", &vec![b'a'; (1 << 20) + 1]), Kind::Binary);
        assert_eq!(kind("a.dtb", b"\xd0\x0d\xfe\xed"), Kind::DeviceTree);
        assert_eq!(kind("a.ko", b"no module"), Kind::Binary);
    }
}
