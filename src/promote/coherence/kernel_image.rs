//! Reads the release of a kernel out of its image.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use super::compression::{Compression, Limited};

/// The size in bytes of the largest kernel image that is read, decompressed.
const MAX_IMAGE: u64 = 256 << 20;

/// The kernel's banner starts with this, followed by the release.
const BANNER: &[u8] = b"Linux version ";

/// What a kernel image says about the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kernel {
    /// The release, the same as `uname -r` prints.
    pub(super) release: String,
    /// The text that a module must have as its vermagic. A kernel without modules has none.
    pub(super) vermagic: Option<String>,
}

impl Kernel {
    /// Reads a kernel image: an arm64 `Image`, also in compressed form.
    ///
    /// # Errors
    /// InvalidData if it is not a kernel image, and the errors of the file and of the
    /// decompression.
    pub(super) fn read(file: &File) -> io::Result<Self> {
        let mut source = BufReader::new(file);
        let compression = Compression::detect(source.fill_buf()?);
        let source: Box<dyn Read> = match compression {
            Some(compression) => compression.decode(source)?,
            None => Box::new(source),
        };
        let mut bytes = Vec::new();
        Limited::new(source, MAX_IMAGE).read_to_end(&mut bytes)?;
        Self::detect(&bytes).ok_or_else(|| {
            let message = "it is not a kernel image (it has no text \"Linux version\")";
            io::Error::new(io::ErrorKind::InvalidData, message)
        })
    }

    fn detect(bytes: &[u8]) -> Option<Self> {
        let release = memchr::memmem::find_iter(bytes, BANNER)
            .find_map(|at| release(&bytes[at + BANNER.len()..]))?;
        let start = format!("\0{release} ");
        let vermagic = memchr::memmem::find_iter(bytes, start.as_bytes())
            .filter_map(|at| text(&bytes[at + 1..]))
            .find(|text| text.contains(" SMP ") || text.contains(" mod_unload "));
        Some(Self {
            release: release.to_owned(),
            vermagic: vermagic.map(str::to_owned),
        })
    }
}

/// Returns the release of an uncompressed kernel image.
#[cfg(feature = "internals")]
pub(crate) fn release_of(bytes: &[u8]) -> Option<String> {
    Kernel::detect(bytes).map(|kernel| kernel.release)
}

/// Returns the release that follows the start of a banner. Behind it, the banner has the user
/// who built the kernel in parentheses.
fn release(rest: &[u8]) -> Option<&str> {
    let end = rest.iter().take(65).position(|byte| *byte == b' ')?;
    let release = std::str::from_utf8(&rest[..end]).ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._+~-".contains(c);
    let is_release =
        release.starts_with(|c: char| c.is_ascii_digit()) && release.chars().all(plain);
    (is_release && rest[end + 1..].starts_with(b"(")).then_some(release)
}

/// Returns the text up to the next zero byte.
fn text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().take(256).position(|byte| *byte == 0)?;
    std::str::from_utf8(&bytes[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(bytes: &[u8]) -> Option<(String, Option<String>)> {
        Kernel::detect(bytes).map(|kernel| (kernel.release, kernel.vermagic))
    }

    #[test]
    fn the_banner_has_the_release_and_the_vermagic_is_separate() {
        let image = b"MZ\0Linux version %s (%s)\0Linux version 6.8.12-tegra (me@here) #1\0\
                      6.8.12-tegra SMP preempt mod_unload modversions aarch64\0";
        let vermagic = "6.8.12-tegra SMP preempt mod_unload modversions aarch64";
        assert_eq!(
            detect(image),
            Some(("6.8.12-tegra".into(), Some(vermagic.into())))
        );
        let without = b"Linux version 5.10.216-l4t+ (a@b)\0 5.10.216-l4t+ x\0";
        assert_eq!(detect(without), Some(("5.10.216-l4t+".into(), None)));
    }

    #[test]
    fn other_bytes_have_no_release() {
        for bytes in [
            &b""[..],
            b"Linux version ",
            b"Linux version 6.8",
            b"Linux version 6.8 ",
            b"Linux version 6.8/../x (a",
            b"Linux version tegra (a",
            b"Linux version ../6 (a",
        ] {
            assert_eq!(detect(bytes), None);
        }
    }
}
