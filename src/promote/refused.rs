//! Errors for refusals. They say what is wrong, where, and what to do next.

use std::path::Path;

use crate::error::{Error, Kind, printable};

/// Creates an error for a refusal because of what is at `path`.
pub(crate) fn refused(
    message: impl Into<String>,
    path: impl AsRef<Path>,
    advice: impl Into<String>,
) -> Error {
    Error::new(Kind::Refused, message)
        .with_path(path)
        .advice(advice)
}

/// Quotes `path` as one shell word, for a command that can be pasted.
pub(crate) fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    printable(&format!("'{}'", text.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_command_is_one_word_on_one_line() {
        for (path, word) in [
            ("/ws/Image/Linux_for_Tegra", "/ws/Image/Linux_for_Tegra"),
            ("/a b", "'/a b'"),
            ("/it's $HOME", r"'/it'\''s $HOME'"),
            ("/a\n;rm b", r"'/a\n;rm b'"),
        ] {
            assert_eq!(shell_word(Path::new(path)), word);
        }
    }
}
