//! Decompiles a device tree with dtc.

use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The first bytes of a flattened device tree.
pub(super) const MAGIC: [u8; 4] = [0xd0, 0x0d, 0xfe, 0xed];

/// The length in bytes of the header.
const HEADER: usize = 40;

/// The size in bytes of the longest text that is read from dtc.
const MAX_TEXT: u64 = 16 << 20;

/// The time after which dtc is stopped.
const MAX_TIME: Duration = Duration::from_secs(20);

/// Returns the source of a device tree, sorted, or why there is none.
pub(super) fn decompile(bytes: &[u8]) -> Result<String, String> {
    check(bytes)?;
    let mut child = Command::new("dtc")
        .args(["-I", "dtb", "-O", "dts", "-s", "-q", "-q", "-o", "-", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => "dtc is not installed".to_owned(),
            _ => format!("dtc cannot be started: {e}"),
        })?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let (text, ended) = thread::scope(|scope| {
        scope.spawn(move || {
            // If dtc does not read all of it, its exit status says why.
            let _ = input.map(|mut input| input.write_all(bytes));
        });
        let read = scope.spawn(move || {
            let mut text = Vec::new();
            let output = output.map(|output| output.take(MAX_TEXT).read_to_end(&mut text));
            output.transpose().map(|_| text)
        });
        let ended = wait(&mut child);
        let text = read.join();
        (
            text.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            ended,
        )
    });
    match (text, ended) {
        (Ok(text), Ok(true)) => {
            String::from_utf8(text).map_err(|_| "dtc did not print text".into())
        }
        (Ok(_), Ok(false)) => Err("dtc cannot read it".into()),
        (Err(e), _) | (_, Err(e)) => Err(format!("dtc: {e}")),
    }
}

/// Waits until dtc ends, and stops it if it takes too long. Returns whether it succeeded.
fn wait(child: &mut Child) -> io::Result<bool> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if start.elapsed() > MAX_TIME {
            child.kill()?;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Checks that what the header says lies within the file.
fn check(bytes: &[u8]) -> Result<(), &'static str> {
    let cut_off = "it is cut off or has wrong sizes";
    let header = bytes.get(..HEADER).ok_or(cut_off)?;
    let word = |at: usize| {
        let mut word = [0; 4];
        word.copy_from_slice(&header[at..at + 4]);
        u64::from(u32::from_be_bytes(word))
    };
    if header[..4] != MAGIC {
        return Err("it is not a device tree");
    }
    let total = word(4);
    if total > bytes.len() as u64 {
        return Err(cut_off);
    }
    // The structure with its size, the strings with theirs, and the reserved memory, which ends
    // with an entry of 16 bytes.
    for (start, size) in [(word(8), word(36)), (word(12), word(32)), (word(16), 16)] {
        if start < HEADER as u64 || start + size > total {
            return Err(cut_off);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device tree made by dtc.
    fn tree(source: &str) -> Vec<u8> {
        let mut child = Command::new("dtc")
            .args(["-I", "dts", "-O", "dtb", "-q", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("dtc (scripts/setup installs it)");
        child
            .stdin
            .take()
            .unwrap()
            .write_all(source.as_bytes())
            .unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success());
        out.stdout
    }

    const SOURCE: &str = "/dts-v1/; / { model = \"board\"; uart@1000 { status = \"okay\"; }; };";

    #[test]
    fn a_device_tree_is_decompiled() {
        let text = decompile(&tree(SOURCE)).unwrap();
        assert!(
            text.contains("uart@1000 {") && text.contains("status = \"okay\";"),
            "{text}"
        );
    }

    #[test]
    fn a_device_tree_that_is_cut_off_anywhere_is_refused_before_dtc_sees_it() {
        let bytes = tree(SOURCE);
        for end in 0..bytes.len() {
            assert!(check(&bytes[..end]).is_err(), "{end}");
        }
        assert!(check(&bytes).is_ok());
    }

    #[test]
    fn a_device_tree_that_lies_about_its_sizes_is_refused() {
        let bytes = tree(SOURCE);
        for at in [4, 8, 12, 16, 32, 36] {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].fill(0xff);
            let said = decompile(&bytes).unwrap_err();
            assert_eq!(said, "it is cut off or has wrong sizes", "{at}");
        }
    }

    #[test]
    fn a_flipped_bit_neither_panics_nor_hangs() {
        let bytes = tree(SOURCE);
        for at in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            let _ = check(&bytes);
        }
        // A structure that ends early.
        let mut broken = bytes.clone();
        let start = u32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize;
        broken[start..].fill(0xff);
        assert_eq!(decompile(&broken).unwrap_err(), "dtc cannot read it");
    }
}
