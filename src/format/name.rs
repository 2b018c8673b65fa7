//! The name of an entry, as a type that cannot hold a bad one.

use std::borrow::Borrow;
use std::fmt;

/// The longest name any Linux file system stores, in bytes (NAME_MAX).
pub const MAX_NAME_LEN: usize = 255;

/// The longest name the reference importer takes, in bytes. A longer length is
/// not a bad name but a broken header: what follows cannot be trusted.
pub const MAX_WALKABLE_NAME_LEN: u64 = 1024;

/// A name that every part of this project accepts: 1 to 255 bytes of UTF-8, no
/// slash, no backslash, no control character, neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// No bytes at all.
    #[error("the name is empty")]
    Empty,
    /// More than [`MAX_NAME_LEN`] bytes.
    #[error("the name has {0} bytes and no Linux file system stores more than {MAX_NAME_LEN}")]
    TooLong(usize),
    /// Not UTF-8; holds the number of bytes that are.
    #[error("the name is not UTF-8 from its byte {0} on")]
    NotUtf8(usize),
    /// `.` or `..`.
    #[error("the name is a directory's own (\".\" or \"..\")")]
    Dots,
    /// A `/` or `\`.
    #[error("the name holds {0:?}, which separates directories")]
    Separator(char),
    /// NUL, a line feed, an escape, any other control character.
    #[error("the name holds the control character {}", .0.escape_default())]
    Control(char),
}

impl Name {
    /// Checks the bytes of a name.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn new(bytes: &[u8]) -> Result<Self, NameFault> {
        if bytes.is_empty() {
            return Err(NameFault::Empty);
        }
        let text = std::str::from_utf8(bytes).map_err(|e| NameFault::NotUtf8(e.valid_up_to()))?;
        if bytes.len() > MAX_NAME_LEN {
            return Err(NameFault::TooLong(bytes.len()));
        }
        if text == "." || text == ".." {
            return Err(NameFault::Dots);
        }
        for c in text.chars() {
            if c == '/' || c == '\\' {
                return Err(NameFault::Separator(c));
            }
            if c.is_control() {
                return Err(NameFault::Control(c));
            }
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_are_taken() {
        for good in ["a", "gcc-13.1.0.tar.xz", "...", ".hidden", "straße", "a b"] {
            assert_eq!(Name::new(good.as_bytes()).unwrap().as_str(), good);
        }
        assert!(Name::new(&[b'x'; MAX_NAME_LEN]).is_ok());
    }

    #[test]
    fn names_that_climb_confuse_or_cannot_be_stored_are_refused() {
        use NameFault::*;
        for (bad, why) in [
            (&b""[..], Empty),
            (b".", Dots),
            (b"..", Dots),
            (b"/etc/passwd", Separator('/')),
            (b"..\\x", Separator('\\')),
            (b"a\0b", Control('\0')),
            (b"a\nb", Control('\n')),
            (b"\x1b[2J", Control('\x1b')),
            (b"a\x7f", Control('\x7f')),
            ("a\u{85}".as_bytes(), Control('\u{85}')),
            (b"ok\xff", NotUtf8(2)),
            (&[b'x'; MAX_NAME_LEN + 1], TooLong(256)),
        ] {
            assert_eq!(Name::new(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn a_name_of_more_than_255_bytes_is_too_long_even_with_fewer_characters() {
        let name = "ß".repeat(128);
        assert_eq!(Name::new(name.as_bytes()), Err(NameFault::TooLong(256)));
    }
}
