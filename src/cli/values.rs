//! Parses the values of options.

use std::num::NonZeroU64;
use std::path::Path;

use crate::block::DirectPolicy;

/// Returns whether `path` is an http or https URL.
pub(super) fn is_url(path: &Path) -> bool {
    let scheme = |known: &str| {
        let start = path.as_os_str().as_encoded_bytes().get(..known.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(known.as_bytes()))
    };
    scheme("http://") || scheme("https://")
}

/// Parses when to use O_DIRECT.
pub(super) fn direct(text: &str) -> Result<DirectPolicy, String> {
    match text {
        "auto" => Ok(DirectPolicy::Auto),
        "always" => Ok(DirectPolicy::Always),
        "never" => Ok(DirectPolicy::Never),
        _ => Err("expected auto, always or never".into()),
    }
}

/// Parses a size in bytes, with K, M or G for powers of 1024.
pub(super) fn size(text: &str) -> Result<NonZeroU64, String> {
    NonZeroU64::new(whole_bytes(text)?).ok_or_else(|| "expected more than 0".into())
}

/// Parses a memory limit in bytes. An import cannot work with less than 4 MiB.
pub(super) fn memory(text: &str) -> Result<NonZeroU64, String> {
    size(text).and_then(|bytes| match bytes.get() {
        0x40_0000.. => Ok(bytes),
        _ => Err("expected at least 4M".into()),
    })
}

/// Parses a percentage of redundancy.
pub(super) fn percent(text: &str) -> Result<u32, String> {
    let number = text.trim_end_matches('%').parse().ok();
    let fits = number.filter(|percent| (1..=50).contains(percent));
    fits.ok_or_else(|| "expected a number from 1 to 50".into())
}

/// Parses as [`size`] does, but accepts 0 too.
pub(super) fn whole_bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "expected a number of bytes, perhaps with K, M or G".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "the number does not fit 64 bits".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_powers_of_1024() {
        let bytes = |text| size(text).map(NonZeroU64::get);
        assert_eq!(bytes("512"), Ok(512));
        assert_eq!(bytes("4K"), Ok(4096));
        assert_eq!(bytes("2g"), Ok(2 << 30));
        for bad in [
            "",
            "K",
            "-1",
            "1.5M",
            "1T",
            "0",
            "99999999999999999999",
            "99999999999G",
            "é",
        ] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
