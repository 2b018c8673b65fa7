//! Parses `external.list`, the list that the shell recipe packs from.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result, printable};
use crate::format::Name;

/// Parses lines of `<archive-name> <absolute-path>`. The name ends at the first blank, the
/// rest is the path, and empty lines are skipped. A byte order mark at the start is skipped
/// too. Returns each with its line number.
pub(super) fn parse_list(text: &[u8], origin: &Path) -> Result<Vec<(u64, Name, PathBuf)>> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut entries = Vec::new();
    for (number, line) in (1_u64..).zip(text.split(|&b| b == b'\n')) {
        if line.iter().all(|b| b.is_ascii_whitespace()) {
            continue;
        }
        let bad = |why: String| {
            Error::new(Kind::Syntax, format!("line {number}: {why}"))
                .with_path(origin)
                .advice("each line has a name, a space and an absolute path")
        };
        let blank = line
            .iter()
            .position(|b| matches!(b, b' ' | b'\t'))
            .ok_or_else(|| {
                bad(format!(
                    "no space between name and path: \"{}\"",
                    printable(&String::from_utf8_lossy(line))
                ))
            })?;
        let (name, rest) = line.split_at(blank);
        let skip = rest
            .iter()
            .position(|b| !matches!(b, b' ' | b'\t'))
            .unwrap_or(rest.len());
        let path = Path::new(OsStr::from_bytes(&rest[skip..]));
        let name = Name::new(name).map_err(|e| bad(e.to_string()))?;
        if !path.is_absolute() {
            return Err(bad(format!(
                "the path is not absolute: \"{}\"",
                printable(&path.to_string_lossy())
            )));
        }
        if rest.ends_with(b"\r") {
            return Err(bad(
                "ends with a carriage return, expected Unix line ends".into()
            ));
        }
        entries.push((number, name, path.to_path_buf()));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<(u64, Name, PathBuf)>> {
        parse_list(text.as_bytes(), Path::new("external.list"))
    }

    #[test]
    fn the_name_ends_at_the_first_blank_and_the_path_may_contain_blanks() {
        let list = parse("b.tar /d/b.tar\n\na /with blank/a b\n").unwrap();
        assert_eq!((list[0].0, &*list[0].2), (1, Path::new("/d/b.tar")));
        assert_eq!(
            (list[1].1.as_str(), &*list[1].2),
            ("a", Path::new("/with blank/a b"))
        );
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_name() {
        let list = parse("\u{feff}a /a\nb /b\n").unwrap();
        assert_eq!((list[0].0, list[0].1.as_str()), (1, "a"));
        assert_eq!(parse("\u{feff}").unwrap(), []);
        // In another place it belongs to a name.
        assert_eq!(parse("x\u{feff} /a\n").unwrap()[0].1.as_str(), "x\u{feff}");
    }

    #[test]
    fn errors_report_the_line_number() {
        for (text, why) in [
            ("a /a\nb relative\n", "line 2: the path is not absolute"),
            ("alone\n", "line 1: no space between"),
            ("a /a\r\n", "line 1: ends with a carriage return"),
            ("a \n", "line 1: the path is not absolute"),
            (" /a\n", "line 1: the name is empty"),
            ("../x /a\n", "line 1: the name contains '/'"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(
                error.starts_with("`external.list`: ") && error.contains(why),
                "{error}"
            );
        }
    }
}
