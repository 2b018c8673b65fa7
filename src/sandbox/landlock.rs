//! The part that the kernel's Landlock does (feature `sandbox`).

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr,
};

use super::{Fault, Sandbox};

/// The newest version of Landlock whose rights are used: the right to cut files off.
const FILES: ABI = ABI::V3;
/// The version of Landlock that can forbid TCP.
const NETWORK: ABI = ABI::V4;

impl Sandbox<'_> {
    /// Restricts what this thread may open.
    pub(super) fn restrict(&self) -> Result<RestrictionStatus, Fault> {
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
fn beneath(path: &Path, access: BitFlags<AccessFs>) -> Result<PathBeneath<PathFd>, Fault> {
    let of_files = match path.is_dir() {
        true => access,
        false => access & AccessFs::from_file(FILES),
    };
    Ok(PathBeneath::new(PathFd::new(path)?, of_files))
}
