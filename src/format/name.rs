//! The name of an entry, as a type that holds only valid names.

use std::borrow::Borrow;
use std::fmt;

/// The longest name that any Linux file system stores, in bytes (NAME_MAX).
pub const MAX_NAME_LEN: usize = 255;

/// The longest name that the reference importer accepts, in bytes. A greater length is a
/// broken header rather than a bad name: the data after it cannot be trusted.
pub const MAX_WALKABLE_NAME_LEN: u64 = 1024;

/// A name that every part of this project accepts: 1 to 255 bytes of UTF-8 without
/// slashes, backslashes and control characters, and neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

/// The reason why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// The name is empty.
    #[error("the name is empty")]
    Empty,
    /// The name is longer than [`MAX_NAME_LEN`] bytes.
    #[error("the name is {0} bytes long, Linux file systems store at most {MAX_NAME_LEN}")]
    TooLong(usize),
    /// The name is not UTF-8. Holds the number of valid bytes before the error.
    #[error("the name is not UTF-8, from its byte {0} on")]
    NotUtf8(usize),
    /// The name is `.` or `..`.
    #[error("the name is \".\" or \"..\", which always mean directories")]
    Dots,
    /// The name contains a `/` or `\`.
    #[error("the name contains {0:?}, which separates directories")]
    Separator(char),
    /// The name contains a control character, such as NUL, a line feed or an escape.
    #[error("the name contains the control character {}", .0.escape_default())]
    Control(char),
}

impl Name {
    /// Checks the bytes of a name and creates it.
    ///
    /// # Errors
    /// The first rule that the name breaks.
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

    /// Returns the name as text.
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
    fn ordinary_names_are_accepted() {
        for good in ["a", "gcc-13.1.0.tar.xz", "...", ".hidden", "straße", "a b"] {
            assert_eq!(Name::new(good.as_bytes()).unwrap().as_str(), good);
        }
        assert!(Name::new(&[b'x'; MAX_NAME_LEN]).is_ok());
    }

    #[test]
    fn invalid_names_are_refused() {
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
