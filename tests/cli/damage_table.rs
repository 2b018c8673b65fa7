//! Every kind of broken image.

use std::path::Path;

use crate::fixture::Place;
use crate::support::{Image, Ran};

/// A broken image and what must be reported about it.
pub(crate) struct Broken {
    pub(crate) label: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) kind: &'static str,
    pub(crate) index: Option<u64>,
    pub(crate) offset: usize,
}

/// The first entry, before the problem.
pub(crate) const GOOD: (&str, &[u8]) = ("good", b"twenty bytes of data");

/// The second of three entries has a name that is refused.
fn bad_name(label: &'static str, name: &[u8], kind: &'static str) -> Broken {
    let mut image = Image::new(&[GOOD, ("", b"evil"), ("after", b"more")]);
    image.files[1].0 = name.to_vec();
    let offset = image.header_offsets()[1];
    let bytes = image.bytes();
    Broken {
        label,
        bytes,
        kind,
        index: Some(1),
        offset,
    }
}

/// The second of two entries has a changed header field: the name length, or 8 bytes
/// later the size.
fn bad_number(label: &'static str, field: usize, value: u64, kind: &'static str) -> Broken {
    let image = Image::new(&[GOOD, ("bad", b"bytes")]);
    let offset = image.header_offsets()[1];
    let mut bytes = image.bytes();
    bytes[offset + field..offset + field + 8].copy_from_slice(&value.to_le_bytes());
    Broken {
        label,
        bytes,
        kind,
        index: Some(1),
        offset,
    }
}

/// The image cut to `len` bytes.
fn cut(label: &'static str, len: usize, at: (Option<u64>, usize)) -> Broken {
    let mut bytes = Image::new(&[GOOD, ("bad", b"bytes")]).bytes();
    bytes.truncate(len);
    let kind = if len < 8 { "wrong-magic" } else { "cut-off" };
    Broken {
        label,
        bytes,
        kind,
        index: at.0,
        offset: at.1,
    }
}

fn counting(label: &'static str, count: u64, narrow: bool) -> Broken {
    let image = Image::new(&[GOOD]);
    let mut bytes = if narrow {
        image.narrow().bytes()
    } else {
        image.bytes()
    };
    let width = if narrow { 4 } else { 8 };
    bytes[8..8 + width].copy_from_slice(&count.to_le_bytes()[..width]);
    Broken {
        label,
        bytes,
        kind: "count-too-large",
        index: None,
        offset: 0,
    }
}

pub(crate) fn all() -> Vec<Broken> {
    let mut wrong_magic = Image::new(&[GOOD]).bytes();
    wrong_magic[7] = b'2';
    let long = "x".repeat(256);
    let longest = "y".repeat(1024);
    let good = Image::new(&[GOOD, ("bad", b"bytes")]);
    let (second, end) = (good.header_offsets()[1], good.bytes().len());
    let mut cases = vec![
        Broken {
            label: "wrong magic",
            bytes: wrong_magic,
            kind: "wrong-magic",
            index: None,
            offset: 0,
        },
        cut("no bytes", 0, (None, 0)),
        cut("half a magic", 4, (None, 0)),
        cut("header cut off", 10, (None, 0)),
        cut("count cut off", 14, (None, 0)),
        cut("entry header cut off", second + 9, (Some(1), second)),
        cut("name cut off", second + 17, (Some(1), second + 16)),
        counting("count too large", 1000, false),
        counting("count of 2^32 - 1", 0xffff_ffff, true),
        counting(
            "count of 2^32, which is no u32 payload without files",
            1 << 32,
            false,
        ),
        counting("count of 7 * 2^56", 7 << 56, false),
        bad_number("name length 0", 0, 0, "name-length"),
        bad_number("name length 1025", 0, 1025, "name-length"),
        bad_number("name length 2^64 - 1", 0, u64::MAX, "name-length"),
        bad_number("size past the end", 8, 6, "data-past-end"),
        bad_number("size of 2^62", 8, 1 << 62, "data-past-end"),
        bad_number("size of 2^64 - 1", 8, u64::MAX, "size-overflow"),
        bad_name("name of 256 bytes", long.as_bytes(), "name-refused"),
        bad_name("name of 1024 bytes", longest.as_bytes(), "name-refused"),
        bad_name("name not UTF-8", b"ab\xff\xfe", "name-not-utf8"),
        bad_name("NUL", b"a\0b", "name-refused"),
        bad_name("line feed", b"a\nb", "name-refused"),
        bad_name("escape", b"\x1b[2Jx", "name-refused"),
        bad_name("DEL", b"a\x7f", "name-refused"),
        bad_name("C1 control", "a\u{85}".as_bytes(), "name-refused"),
        bad_name("a dot", b".", "name-refused"),
        bad_name("two dots", b"..", "name-refused"),
        bad_name("absolute", b"/etc/passwd", "name-refused"),
        bad_name("climbing", b"../../evil", "name-refused"),
        bad_name("backslash", b"..\\evil", "name-refused"),
        bad_name("twice", b"good", "name-repeated"),
    ];
    // The count is two entries too high. The size of the image allows that many
    // entries, but they are missing.
    let mut bytes = good.bytes();
    bytes.resize(end + 40, 0);
    bytes[8] = 4;
    bytes[end..].fill(1);
    cases.push(Broken {
        label: "garbage where an entry is counted",
        bytes,
        kind: "name-length",
        index: Some(2),
        offset: end,
    });
    let mut narrow = Image::new(&[GOOD, ("bad", b"bytes")]).narrow();
    let offset = narrow.header_offsets()[1];
    let mut bytes = narrow.bytes();
    bytes[offset + 4..offset + 8].fill(0xff);
    cases.push(Broken {
        label: "u32 size past the end",
        bytes,
        kind: "data-past-end",
        index: Some(1),
        offset,
    });
    narrow.files[1].0 = b"..".to_vec();
    cases.push(Broken {
        label: "u32 name that climbs",
        bytes: narrow.bytes(),
        kind: "name-refused",
        index: Some(1),
        offset,
    });
    cases
}

impl Broken {
    pub(crate) fn place(&self) -> Place {
        Place::with_bytes(&self.bytes)
    }

    /// The message names the image in its first line, has entry and offset in a note,
    /// has advice, and contains no control characters.
    #[track_caller]
    pub(crate) fn is_told(&self, ran: &Ran, image: &Path) {
        let clean = |text: &str| !text.chars().any(|c| c.is_control() && c != '\n');
        assert!(
            clean(&ran.stdout) && clean(&ran.stderr),
            "{}: raw control characters",
            self.label
        );
        let has = |start: &str, part: &str| {
            let mut lines = ran.stderr.lines();
            lines.any(|line| line.starts_with(start) && line.contains(part))
        };
        let entry = self.index.map_or(String::new(), |i| format!("entry {i}, "));
        let place = format!("{entry}at offset {}", self.offset);
        let told = has("lbpayload: error: ", &format!("`{}`", image.display()))
            && (place == "at offset 0" || has("lbpayload: note: ", &place))
            && has("lbpayload: help: ", "");
        assert!(told, "{}: {}", self.label, ran.stderr);
    }

    /// Whether reading can continue after the problem.
    pub(crate) fn is_about_a_name(&self) -> bool {
        matches!(
            self.kind,
            "name-refused" | "name-not-utf8" | "name-repeated"
        )
    }
}
