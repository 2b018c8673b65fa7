//! A unified diff of two texts, with a limited size and time.

use std::time::Duration;

use similar::{Algorithm, TextDiff};

/// The most lines of a diff.
const MAX_LINES: usize = 2000;

/// The size in bytes of the largest diff. A line can be long.
const MAX_BYTES: usize = 64 << 10;

/// Two texts without a common line take quadratic time. After this time, the diff is coarser.
const MAX_TIME: Duration = Duration::from_secs(1);

/// Returns a unified diff, or nothing if the texts are the same, and the number of lines that
/// were left out at its end.
pub(super) fn unified(old: &str, new: &str, old_name: &str, new_name: &str) -> (String, usize) {
    let diff = TextDiff::configure()
        .algorithm(Algorithm::Myers)
        .timeout(MAX_TIME)
        .diff_lines(old, new);
    let text = diff.unified_diff().header(old_name, new_name).to_string();
    let mut end = 0;
    let mut lines = text.split_inclusive('\n');
    for line in lines.by_ref().take(MAX_LINES) {
        if end + line.len() > MAX_BYTES {
            return (text[..end].to_owned(), 1 + lines.count());
        }
        end += line.len();
    }
    (text[..end].to_owned(), lines.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_can_be_read_by_patch() {
        let (text, more) = unified("a\nb\nc\n", "a\nB\nc", "a/x", "b/x");
        let wanted = "--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@\n a\n-b\n-c\n+B\n+c\n\\ No newline at end \
                      of file\n";
        assert_eq!((&*text, more), (wanted, 0));
        assert_eq!(unified("a\n", "a\n", "a/x", "b/x"), (String::new(), 0));
    }

    #[test]
    fn a_long_diff_is_cut_and_says_how_much_is_missing() {
        let old: String = (0..5000).map(|n| format!("{n}\n")).collect();
        let (text, more) = unified(&old, "", "a/x", "/dev/null");
        assert_eq!(text.lines().count(), MAX_LINES);
        // Two lines of the header and one of the hunk.
        assert_eq!(more, 5003 - MAX_LINES);
        let long = "x".repeat(MAX_BYTES);
        let (text, more) = unified("", &long, "/dev/null", "b/x");
        assert_eq!(text, "--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n");
        assert!(more >= 1);
    }
}
