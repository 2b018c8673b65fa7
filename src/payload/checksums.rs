//! Checksums by name, in the format of sha256sum(1).

use std::io::{BufRead, Read};
use std::path::Path;

use crate::error::{Error, Kind, Result, printable};

use super::digest::Sha256Sum;

/// The longest embedded `SHA256SUMS` that is read or written, in bytes of text:
/// about 230,000 files. It bounds the memory that an image can ask for.
pub const EMBEDDED_SUMS_MAX_BYTES: u64 = 24 << 20;

/// The longest line that is read, in bytes: a sum and the longest path fit.
const LINE_MAX_BYTES: u64 = 8192;

/// Checksums by name.
///
/// The names are stored in one string to save memory. The list that refers to them is
/// sorted by name whenever a public function returns.
#[derive(Debug, Default)]
pub struct Checksums {
    names: String,
    sums: Vec<Sum>,
}

#[derive(Debug, Clone, Copy)]
struct Sum {
    at: u32,
    len: u32,
    sum: Sha256Sum,
    seen: bool,
}

/// Returns a line in the format of sha256sum.
pub fn sum_line(sum: Sha256Sum, name: &str) -> String {
    format!("{sum}  {name}\n")
}

impl Checksums {
    /// Returns an empty set of checksums.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of names that have a checksum.
    pub fn len(&self) -> usize {
        self.sums.len()
    }

    /// Returns whether there are no checksums.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// Adds the checksums in the file `path`.
    ///
    /// # Errors
    /// The file cannot be read, a line is not in sha256sum's format, or a name has two
    /// different sums.
    pub fn add_file(&mut self, path: &Path) -> Result<()> {
        let failed = |e| {
            Error::io("read the checksums in", e)
                .with_path(path)
                .advice("check the path")
        };
        let meta = std::fs::metadata(path).map_err(failed)?;
        if meta.is_dir() {
            return Err(Error::new(
                Kind::Syntax,
                "expected a file of checksums, found a directory",
            )
            .with_path(path)
            .advice("name a file that `sha256sum` wrote"));
        }
        let file = std::fs::File::open(path).map_err(failed)?;
        self.add_lines(std::io::BufReader::new(file), &path.to_string_lossy())
    }

    /// Adds the checksums in `text`; `origin` names it in errors.
    ///
    /// # Errors
    /// The same as for [`Checksums::add_file`].
    pub fn add_lines(&mut self, text: impl BufRead, origin: &str) -> Result<()> {
        let pushed = self.push_lines(text, origin);
        let sorted = self.sort(origin);
        pushed.and(sorted)
    }

    /// Adds these checksums by name; `origin` names them in errors.
    ///
    /// # Errors
    /// A name has two different sums, or the names take more than 4 GiB, which is the limit.
    pub fn add<'a>(
        &mut self,
        sums: impl IntoIterator<Item = (&'a str, Sha256Sum)>,
        origin: &Path,
    ) -> Result<()> {
        let mut sums = sums.into_iter();
        let pushed = sums.try_for_each(|(name, sum)| self.push(name, sum));
        let sorted = self.sort(origin);
        pushed.map_err(|e| e.with_path(origin)).and(sorted)
    }

    fn push_lines(&mut self, mut text: impl BufRead, origin: &str) -> Result<()> {
        let mut line = Vec::new();
        for number in 1_u64.. {
            line.clear();
            let n = text
                .by_ref()
                .take(LINE_MAX_BYTES)
                .read_until(b'\n', &mut line)
                .map_err(|e| {
                    // The error of an entry's reader says more than the system's.
                    e.downcast::<Error>()
                        .unwrap_or_else(|e| Error::io("read", e).with_path(origin))
                })?;
            if n == 0 {
                break;
            }
            let bad = |why: &str| {
                Error::new(Kind::Syntax, format!("line {number}: {why}"))
                    .with_path(origin)
                    .advice(
                        "each line has 64 hexadecimal digits, two spaces and a name, as `sha256sum` \
                         writes them",
                    )
            };
            let text = std::str::from_utf8(&line).map_err(|_| bad("not UTF-8"))?;
            let text = text.trim_end_matches(['\n', '\r']);
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let (sum, name) = parse_line(text).ok_or_else(|| {
                if let Some((algorithm, program)) = other_algorithm(text) {
                    let why = format!("{algorithm} checksum, expected SHA-256");
                    return bad(&why).advice(format!(
                        "make the list with `sha256sum` in place of `{program}`"
                    ));
                }
                let shown: String = text.chars().take(60).collect();
                bad(&format!("not a checksum: \"{}\"", printable(&shown)))
            })?;
            self.push(name, sum).map_err(|e| e.with_path(origin))?;
        }
        Ok(())
    }

    /// Adds one checksum at the end, without sorting.
    fn push(&mut self, name: &str, sum: Sha256Sum) -> Result<()> {
        let too_many = || Error::new(Kind::Refused, "too many checksums");
        let at = u32::try_from(self.names.len()).map_err(|_| too_many())?;
        let len = u32::try_from(name.len()).map_err(|_| too_many())?;
        at.checked_add(len).ok_or_else(too_many)?;
        let reserved = self.names.try_reserve(name.len());
        reserved
            .and_then(|()| self.sums.try_reserve(1))
            .map_err(|_| Error::no_memory("hold the checksums"))?;
        self.names.push_str(name);
        self.sums.push(Sum {
            at,
            len,
            sum,
            seen: false,
        });
        Ok(())
    }

    /// Sorts the checksums by name, so that they can be looked up.
    ///
    /// # Errors
    /// A name has two different sums.
    fn sort(&mut self, origin: impl AsRef<Path>) -> Result<()> {
        let names = std::mem::take(&mut self.names);
        let name = |s: &Sum| &names[s.at as usize..(s.at + s.len) as usize];
        self.sums.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        let clash = self
            .sums
            .windows(2)
            .find(|pair| name(&pair[0]) == name(&pair[1]) && pair[0].sum != pair[1].sum)
            .map(|pair| printable(name(&pair[0])));
        self.sums.dedup_by(|a, b| name(a) == name(b));
        self.names = names;
        let Some(name) = clash else {
            return Ok(());
        };
        let what = format!("\"{name}\" has two different checksums");
        Err(Error::new(Kind::Checksum, what).with_path(origin))
    }

    /// Adds the checksums of `others`, which `origin` names in errors.
    ///
    /// # Errors
    /// The same as for [`Checksums::add`].
    pub fn merge(&mut self, others: &Self, origin: &Path) -> Result<()> {
        let named = others.sums.iter().map(|sum| (others.name(sum), sum.sum));
        self.add(named, origin)
    }

    /// Returns the checksum of `name`.
    pub fn get(&self, name: &str) -> Option<Sha256Sum> {
        self.find(name).map(|place| self.sums[place].sum)
    }

    /// Returns the checksum of `name` and marks it as seen.
    pub fn take(&mut self, name: &str) -> Option<Sha256Sum> {
        let place = self.find(name)?;
        self.sums[place].seen = true;
        Some(self.sums[place].sum)
    }

    /// Returns the names that [`Checksums::take`] has not been called with.
    pub fn unseen(&self) -> impl Iterator<Item = &str> {
        self.sums.iter().filter(|s| !s.seen).map(|s| self.name(s))
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.sums.binary_search_by(|s| self.name(s).cmp(name)).ok()
    }

    fn name(&self, sum: &Sum) -> &str {
        &self.names[sum.at as usize..(sum.at + sum.len) as usize]
    }
}

/// Parses `SUM  NAME`, `SUM *NAME`, or the tagged `SHA256 (NAME) = SUM`. `./` at
/// the start, however often, is not part of the name.
fn parse_line(line: &str) -> Option<(Sha256Sum, &str)> {
    let (sum, name) = match line.strip_prefix("SHA256 (") {
        Some(tagged) => {
            let (name, sum) = tagged.rsplit_once(") = ")?;
            (sum, name)
        }
        None => {
            let (sum, name) = line.split_at_checked(64)?;
            let name = name
                .strip_prefix("  ")
                .or_else(|| name.strip_prefix(" *"))?;
            (sum, name)
        }
    };
    let name = name.trim_start_matches("./");
    if name.is_empty() {
        return None;
    }
    Some((sum.parse().ok()?, name))
}

/// Returns the algorithm of a line with a checksum other than SHA-256, judged by its length in
/// hexadecimal digits or its tag, and the program that writes such lines.
fn other_algorithm(line: &str) -> Option<(&'static str, &'static str)> {
    let sum = match line.rsplit_once(") = ") {
        Some((_, sum)) => sum,
        None => line.split_once(' ').map_or(line, |(sum, _)| sum),
    };
    if !sum.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    match sum.len() {
        32 => Some(("MD5", "md5sum")),
        40 => Some(("SHA-1", "sha1sum")),
        56 => Some(("SHA-224", "sha224sum")),
        96 => Some(("SHA-384", "sha384sum")),
        128 => Some(("SHA-512", "sha512sum")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Checksums> {
        let mut sums = Checksums::new();
        sums.add_lines(text.as_bytes(), "SUMS")?;
        Ok(sums)
    }

    #[test]
    fn every_form_that_sha256sum_checks_is_read() {
        let (a, b) = (Sha256Sum::of(b"a"), Sha256Sum::of(b"b"));
        let text = format!("{b}  two words\n\n{a} *bin\r\nSHA256 (tag (1)) = {a}\n{b}  ./here\n");
        let mut sums = read(&text).unwrap();
        assert_eq!(sums.take("two words"), Some(b));
        assert_eq!(sums.get("bin"), Some(a));
        assert_eq!(sums.get("tag (1)"), Some(a));
        assert_eq!(sums.get("here"), Some(b));
        assert_eq!(sums.get("there"), None);
        assert_eq!(
            sums.unseen().collect::<Vec<_>>(),
            ["bin", "here", "tag (1)"]
        );
    }

    #[test]
    fn an_invalid_line_is_reported_with_its_number() {
        let error = read(&format!("{}  ok\nrubbish\n", Sha256Sum::of(b""))).unwrap_err();
        assert!(error.to_string().contains("SUMS`: line 2: "), "{error}");
    }

    #[test]
    fn sums_before_an_invalid_line_can_be_looked_up() {
        let sum = Sha256Sum::of(b"x");
        let text = format!("{sum}  c\n{sum}  a\n{sum}  b\nrubbish\n");
        let mut sums = Checksums::new();
        sums.add_lines(text.as_bytes(), "SUMS").unwrap_err();
        for name in ["a", "b", "c"] {
            assert_eq!(sums.get(name), Some(sum), "{name}");
        }
    }

    #[test]
    fn added_sums_can_be_looked_up_whatever_their_order() {
        let (a, b) = (Sha256Sum::of(b"a"), Sha256Sum::of(b"b"));
        let mut sums = read(&format!("{b}  z\n{a}  m\n")).unwrap();
        let origin = Path::new("manifest");
        sums.add([("x", a), ("c", b), ("m", a)], origin).unwrap();
        for (name, sum) in [("z", b), ("m", a), ("x", a), ("c", b)] {
            assert_eq!(sums.get(name), Some(sum), "{name}");
        }
        let error = sums
            .add([("y", a), ("b", a), ("z", a)], origin)
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Checksum);
        assert_eq!(sums.get("b"), Some(a));
    }

    #[test]
    fn a_name_may_repeat_only_with_the_same_sum() {
        let (a, b) = (Sha256Sum::of(b"a"), Sha256Sum::of(b"b"));
        assert_eq!(read(&format!("{a}  x\n{a}  x\n")).unwrap().len(), 1);
        let error = read(&format!("{a}  x\n{b}  x\n")).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("\"x\" has two different checksums"),
            "{error}"
        );
    }

    #[test]
    fn a_written_line_can_be_read_back() {
        let sum = Sha256Sum::of(b"x");
        assert_eq!(read(&sum_line(sum, "a b")).unwrap().get("a b"), Some(sum));
        // Otherwise the line that is written for it would have another name.
        assert_eq!(read(&sum_line(sum, "././a")).unwrap().get("a"), Some(sum));
    }
}
