//! Gives up what a thread does not need: files that it has no business with, the network, and
//! privileges.
//!
//! What comes from a disk is not trusted, and a mistake in the code that reads it must not reach
//! other files. Files that are open stay open. The kernel needs Landlock (Linux 5.19, Landlock ABI 2,
//! which allows links between directories).

use std::error::Error;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr,
};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// The newest version of Landlock whose rights are used: the right to cut files off.
const FILES: ABI = ABI::V3;
/// The version of Landlock that can forbid TCP.
const NETWORK: ABI = ABI::V4;

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
                log::info!("sandbox: not used, the kernel has no Landlock as it is needed: {e}")
            }
        }
    }

    fn restrict(&self) -> Result<RestrictionStatus, Box<dyn Error + Send + Sync>> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = AccessFs::from_write(FILES)
            & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::MakeSock | AccessFs::MakeSym);
        let handled = match self.read {
            Some(_) => AccessFs::from_all(FILES),
            None => AccessFs::from_write(FILES),
        };
        // Without this right, no link leads from one directory to another.
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::Refer)?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(handled)?;
        let ruleset = match self.read {
            Some(_) => ruleset.handle_access(AccessNet::from_all(NETWORK))?,
            None => ruleset,
        };
        // How many processors there are, and whether a process has a signal. What the kernel
        // protects in /proc stays protected: it needs privileges.
        let system = ["/proc", "/sys"].map(Path::new);
        let readable = self.read.unwrap_or(&[]).iter().chain(&system);
        let mut ruleset = ruleset.create()?;
        for path in readable.filter(|path| path.exists()) {
            ruleset = ruleset.add_rule(beneath(path, read & handled)?)?;
        }
        for path in self.write {
            ruleset = ruleset.add_rule(beneath(path, (read | write) & handled)?)?;
        }
        Ok(ruleset.restrict_self()?)
    }
}

/// Returns a rule for a file, or for what lies beneath a directory.
fn beneath(
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<PathBeneath<PathFd>, Box<dyn Error + Send + Sync>> {
    let of_files = match path.is_dir() {
        true => access,
        false => access & AccessFs::from_file(FILES),
    };
    Ok(PathBeneath::new(PathFd::new(path)?, of_files))
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind::{CrossesDevices, PermissionDenied};
    use std::net::TcpStream;
    use std::thread;

    use landlock::RulesetStatus;

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
