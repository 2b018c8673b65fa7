//! Names the types of files in errors.

use std::fs::FileType;
use std::os::unix::fs::FileTypeExt;

/// Returns the name of a file type with its article, such as "a FIFO".
pub fn file_type_name(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_file() => "a regular file",
        kind if kind.is_dir() => "a directory",
        kind if kind.is_symlink() => "a symlink",
        kind if kind.is_block_device() => "a block device",
        kind if kind.is_char_device() => "a character device",
        kind if kind.is_fifo() => "a FIFO",
        _ => "a socket",
    }
}
