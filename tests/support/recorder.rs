//! Records what the program writes to a file or device, and makes the states that a kill or a
//! power failure can leave.

use std::path::Path;
use std::process::Command;

use super::preload;

const SECTOR: usize = 512;

/// One operation of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    Bytes(u64, Vec<u8>),
    Sync,
    Truncated(u64),
}

impl Written {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Sync => {}
            Self::Truncated(len) => bytes.resize(*len as usize, 0),
            Self::Bytes(offset, new) => {
                let end = *offset as usize + new.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset as usize..end].copy_from_slice(new);
            }
        }
    }

    /// Applies some of the sectors of a write.
    fn tear(&self, bytes: &mut Vec<u8>, mut keeps: impl FnMut() -> bool) {
        let Self::Bytes(offset, new) = self else {
            return self.apply(bytes);
        };
        for (n, sector) in new.chunks(SECTOR).enumerate() {
            if keeps() {
                let at = offset + (n * SECTOR) as u64;
                Self::Bytes(at, sector.to_vec()).apply(bytes);
            }
        }
    }
}

/// What is recorded.
pub enum What<'a> {
    /// What is written to this file or device.
    This(&'a Path),
    /// What is written to files that are new in this directory.
    NewIn(&'a Path),
}

fn prepare(command: &mut Command, what: &What<'_>) -> Option<()> {
    command.env("LD_PRELOAD", preload::library("recorder.c")?);
    match what {
        What::This(path) => command.env("RECORD_WHAT", path),
        What::NewIn(dir) => command.env("RECORD_WHAT", "new").env("RECORD_IN", dir),
    };
    Some(())
}

/// Runs `command`, which must succeed, and returns what it wrote. `None` if this cannot be
/// recorded here.
#[track_caller]
pub fn record(command: &mut Command, what: &What<'_>) -> Option<Vec<Written>> {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    prepare(command, what)?;
    super::check(command.env("RECORD_TO", &log));
    let bytes = std::fs::read(log).unwrap();
    let mut operations = Vec::new();
    let mut rest = &bytes[..];
    while let [kind, numbers @ ..] = rest {
        let number = |at: usize| u64::from_ne_bytes(numbers[at..at + 8].try_into().unwrap());
        let (offset, len) = (number(0), number(8));
        rest = &numbers[16..];
        operations.push(match kind {
            b'S' => Written::Sync,
            b'T' => Written::Truncated(len),
            _ => {
                let (bytes, after) = rest.split_at(len as usize);
                rest = after;
                Written::Bytes(offset, bytes.to_vec())
            }
        });
    }
    Some(operations)
}

/// Runs `command` and kills it in place of operation `number`. Returns whether it was killed.
/// `None` if this cannot be done here.
pub fn kill_at(command: &mut Command, what: &What<'_>, number: usize) -> Option<bool> {
    prepare(command, what)?;
    let status = command.env("KILL_AT", number.to_string()).output().unwrap();
    Some(status.status.code().is_none())
}

/// Calls `check` with each state that a kill, or a power failure that loses some of what was not
/// synced, can leave. `check` is told what the state is.
pub fn each_state(
    before: &[u8],
    operations: &[Written],
    seed: u64,
    check: &mut dyn FnMut(&str, Vec<u8>),
) {
    let mut synced = before.to_vec();
    let mut since: Vec<&Written> = Vec::new();
    let mut killed = before.to_vec();
    let mut noise = super::noise(seed, operations.len() * 64 + (1 << 16))
        .into_iter()
        .cycle();
    let mut keeps = move || noise.next().is_some_and(|byte| byte & 1 == 1);
    check("nothing was written", killed.clone());
    for (n, operation) in operations.iter().enumerate() {
        operation.apply(&mut killed);
        if *operation == Written::Sync {
            synced.clone_from(&killed);
            since.clear();
            continue;
        }
        since.push(operation);
        check(&format!("killed after operation {n}"), killed.clone());
        if since.len() > 1 {
            let mut last = synced.clone();
            operation.apply(&mut last);
            check(&format!("only operation {n} since the last sync"), last);
        }
        let mut some = synced.clone();
        for operation in &since {
            if keeps() {
                operation.apply(&mut some);
            }
        }
        check(&format!("some of the operations up to {n}"), some);
        let mut torn = synced.clone();
        since
            .iter()
            .for_each(|operation| operation.tear(&mut torn, &mut keeps));
        check(&format!("some sectors of the operations up to {n}"), torn);
    }
}
