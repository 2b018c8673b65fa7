//! Gives up what a thread does not need: files that it has no business with, the network, and
//! privileges.
//!
//! What comes from a disk is not trusted, and a mistake in the code that reads it must not reach
//! other files. Files that are open stay open. The kernel needs Landlock (Linux 5.19, Landlock ABI 2,
//! which allows links between directories).

#[cfg(feature = "sandbox")]
mod landlock;

use std::error::Error;
use std::path::Path;

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// Why less is restricted.
type Fault = Box<dyn Error + Send + Sync>;

/// What a thread may still do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sandbox<'a> {
    /// The files that it may open for reading, and the directories beneath which it may read.
    /// With `None` it may read everything and use the network, as HTTPS needs.
    pub read: Option<&'a [&'a Path]>,
    /// The directories beneath which it may read and write.
    pub write: &'a [&'a Path],
}

impl Sandbox<'_> {
    /// Restricts this thread, and the threads and processes that it starts from now on. That cannot
    /// be taken back. Where the kernel lacks something, less is restricted.
    pub fn enter(&self) {
        // Root also writes to directories of others, and keeps the owner of a file it replaces.
        let kept = match self.write {
            [] => CapabilitySet::empty(),
            _ => {
                CapabilitySet::CHOWN
                    | CapabilitySet::DAC_OVERRIDE
                    | CapabilitySet::DAC_READ_SEARCH
                    | CapabilitySet::FOWNER
            }
        };
        if let Err(e) = keep_capabilities(kept) {
            log::info!("sandbox: could not give up privileges: {e}");
        }
        match self.restrict() {
            Ok(_) => log::info!(
                "sandbox: only reads {}, and writes {}",
                self.read.map_or("everything".into(), listed),
                listed(self.write)
            ),
            Err(e) => {
                log::info!("sandbox: no Landlock here, files are not restricted: {e}")
            }
        }
    }
}

#[cfg(not(feature = "sandbox"))]
impl Sandbox<'_> {
    fn restrict(&self) -> Result<(), Fault> {
        Err("this build is without it".into())
    }
}

/// Gives up all capabilities of this thread but `kept`.
fn keep_capabilities(kept: CapabilitySet) -> std::io::Result<()> {
    let mut sets = capabilities(None)?;
    for set in [
        &mut sets.effective,
        &mut sets.permitted,
        &mut sets.inheritable,
    ] {
        *set &= kept;
    }
    Ok(set_capabilities(None, sets)?)
}

fn listed(paths: &[&Path]) -> String {
    let shown: Vec<String> = paths.iter().map(|p| format!("`{}`", p.display())).collect();
    match shown.is_empty() {
        true => "nothing".into(),
        false => shown.join(", "),
    }
}

#[cfg(all(test, feature = "sandbox"))]
mod tests {
    use std::fs;
    use std::io::ErrorKind::{CrossesDevices, PermissionDenied};
    use std::net::TcpStream;
    use std::thread;

    use ::landlock::RulesetStatus;

    use super::*;

    /// Returns whether this kernel enforces everything, or `None` with a message if it has no
    /// Landlock.
    fn enforces_all() -> Option<bool> {
        let nothing = Sandbox {
            read: Some(&[]),
            write: &[],
        };
        match thread::spawn(move || nothing.restrict()).join().unwrap() {
            Ok(status) => Some(status.ruleset == RulesetStatus::FullyEnforced),
            Err(e) => {
                use std::io::Write;
                let _ = writeln!(std::io::stderr(), "SKIPPED: no Landlock here: {e}");
                None
            }
        }
    }

    #[test]
    fn only_what_is_named_can_be_opened() {
        let Some(all) = enforces_all() else { return };
        let dir = tempfile::tempdir().unwrap();
        let [read, write, other] = ["read", "write", "other"].map(|name| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("file"), name).unwrap();
            path
        });
        thread::spawn(move || {
            let source = read.join("file");
            Sandbox {
                read: Some(&[&source]),
                write: &[&write],
            }
            .enter();
            assert_eq!(fs::read(&source).unwrap(), b"read");
            assert_eq!(fs::read(write.join("file")).unwrap(), b"write");
            fs::create_dir(write.join("staging")).unwrap();
            fs::write(write.join("staging/new"), "new").unwrap();
            fs::hard_link(write.join("staging/new"), write.join("linked")).unwrap();
            fs::rename(write.join("staging/new"), write.join("new")).unwrap();
            fs::remove_dir(write.join("staging")).unwrap();
            let denied = [
                fs::read(other.join("file")).map(drop),
                fs::write(&source, "changed"),
                fs::write(other.join("new"), "new"),
                fs::remove_file(other.join("file")),
                fs::rename(write.join("new"), other.join("new")),
                TcpStream::connect("127.0.0.1:9").map(drop),
            ];
            let denied = denied.map(|result| result.unwrap_err().kind());
            for kind in &denied[..4] {
                assert_eq!(*kind, PermissionDenied);
            }
            assert!([PermissionDenied, CrossesDevices].contains(&denied[4]));
            // Linux 6.7 and later.
            assert!(denied[5] == PermissionDenied || !all);
        })
        .join()
        .unwrap();
        // This thread is as free as before.
        fs::write(dir.path().join("free"), "free").unwrap();
    }

    #[test]
    fn privileges_are_given_up() {
        thread::spawn(|| {
            Sandbox {
                read: None,
                write: &[],
            }
            .enter();
            assert!(capabilities(None).unwrap().permitted.is_empty());
        })
        .join()
        .unwrap();
    }
}
