//! What is wrong with bytes that were written and read back.

use std::io;
use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Kind};

use super::plan::Plan;

/// A difference between what was written and what came back.
#[derive(Debug)]
pub(super) struct Mismatch {
    /// The bytes in which the first wrong byte is.
    pub(super) range: Range<u64>,
    pub(super) fault: Fault,
}

#[derive(Debug)]
pub(super) enum Fault {
    /// The bytes cannot be read.
    Unreadable(io::Error),
    /// The bytes differ.
    Differs,
    /// The device shows its first bytes again behind this size.
    Repeats(u64),
    /// The device does not store what is behind this size.
    Drops(u64),
}

impl Mismatch {
    /// Returns the mismatch of the sector that is written last.
    pub(super) fn in_first_sector() -> Self {
        Self {
            range: 0..512,
            fault: Fault::Differs,
        }
    }

    /// Returns the error that describes it, for the file or device at `path`.
    pub(super) fn into_error(self, plan: &Plan, path: &Path) -> Error {
        let shown = path.display();
        let distrust = "do not trust this device, use another one";
        let fake = |what: &str, size: u64| {
            let human = human_bytes(size);
            Error::new(Kind::Io, "")
                .with_line(format!(
                    "`{shown}` is smaller than it claims, it {what} what is behind {human}"
                ))
                .with_code("fake-size")
                .note(format!("it stores only {size} bytes"))
                .advice("use another device, what is written to this one gets lost")
        };
        let error = match self.fault {
            Fault::Repeats(size) => fake("repeats", size),
            Fault::Drops(size) => fake("drops", size),
            Fault::Differs => Error::new(Kind::Io, "")
                .with_line(format!("`{shown}` does not return what was written to it"))
                .with_code("read-back")
                .advice(distrust),
            Fault::Unreadable(e) => Error::io("read back", e).advice(distrust),
        };
        let Range { start, end } = self.range;
        let len = human_bytes(end - start);
        let place = match plan.input_at(start) {
            Some(input) => format!(
                "the first wrong byte is in {len} that begin in `{}`",
                input.name
            ),
            None => format!("the first wrong byte is in {len}"),
        };
        error.with_path(path).with_offset(start).note(place)
    }
}

/// Formats a size with one decimal, such as "8.0 GiB".
fn human_bytes(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (bytes.max(1).ilog2() / 10) as usize;
    match unit {
        0 => format!("{bytes} bytes"),
        _ => {
            let size = bytes as f64 / (1_u64 << (10 * unit)) as f64;
            format!("{size:.1} {}", units[unit])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_decimal() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (512, "512 bytes"),
            (1536, "1.5 KiB"),
            (8 << 30, "8.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }
}
