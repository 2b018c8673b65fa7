//! Decides the owner, the mode and the other attributes of a file that is written. This module does
//! no I/O.

use crate::durable::Attributes;
use crate::promote::inputs::content::Content;
use crate::promote::options::Ownership;
use crate::promote::path::Zone;
use crate::promote::tree::protocol::PreviousState;

/// What decides the attributes of a file, apart from its source and its old state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) zone: Zone,
    pub(crate) ownership: Ownership,
    pub(crate) as_root: bool,
    /// The user who ran sudo.
    pub(crate) invoker: Option<(u32, u32)>,
    /// Whether it should be executable. `None` if that is left as it is.
    pub(crate) executable: Option<bool>,
    /// Whether an earlier promote made it executable, so that this one may undo that.
    pub(crate) was_made_executable: bool,
}

impl Rules {
    /// Returns the mode that an existing file of mode `there` gets.
    pub(crate) fn mode(&self, there: u32) -> u32 {
        match self.executable {
            // Those who may read it may execute it, as git does it.
            Some(true) if there & 0o111 == 0 => there | 0o100 | ((there & 0o444) >> 2),
            Some(false) if self.was_made_executable => there & !0o111,
            _ => there,
        }
    }
}

/// Returns the attributes to give a file.
pub(crate) fn plan_attributes(
    rules: &Rules,
    content: &Content,
    source: Option<&Attributes>,
    previous: &PreviousState,
) -> Attributes {
    let there = match previous {
        PreviousState::File { attributes, .. } => Some(attributes.clone()),
        _ => None,
    };
    let (zone, as_root) = (rules.zone, rules.as_root);
    let may_give = |owner: &(u32, u32)| Some(*owner).filter(|_| zone == Zone::Rootfs || as_root);
    match content {
        Content::Backup(_, given) => {
            return Attributes {
                owner: given.owner.as_ref().and_then(may_give),
                ..given.clone()
            };
        }
        Content::Link(_, given) => {
            let new = match zone {
                Zone::Rootfs => Some((0, 0)),
                Zone::Elsewhere => rules.invoker,
            };
            return Attributes {
                owner: given.owner.as_ref().and_then(may_give).or(new),
                ..given.clone()
            };
        }
        _ => {}
    }
    let source = source.cloned().unwrap_or_default();
    match (zone, rules.ownership) {
        (Zone::Rootfs, Ownership::Keep) => match there {
            Some(there) => Attributes {
                mode: rules.mode(there.mode),
                mtime: source.mtime,
                ..there
            },
            // A file that becomes root's must not keep the developer's setuid bit.
            None => Attributes {
                mode: source.mode & 0o1777,
                owner: Some((0, 0)),
                mtime: source.mtime,
                xattrs: Vec::new(),
            },
        },
        (Zone::Rootfs, Ownership::Source) => Attributes {
            xattrs: Vec::new(),
            ..source
        },
        (Zone::Elsewhere, _) => Attributes {
            mode: match &there {
                Some(there) if rules.executable.is_some() => rules.mode(there.mode),
                _ => source.mode,
            },
            owner: match rules.ownership {
                _ if !as_root => None,
                Ownership::Source => source.owner,
                Ownership::Keep => there.and_then(|there| there.owner).or(rules.invoker),
            },
            xattrs: Vec::new(),
            ..source
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_files_under_rootfs_keep_their_owner_and_new_ones_are_roots() {
        let source = Attributes {
            mode: 0o4755,
            mtime: (7, 0),
            owner: Some((1000, 1000)),
            xattrs: Vec::new(),
        };
        let there = Attributes {
            mode: 0o2711,
            mtime: (1, 0),
            owner: Some((0, 42)),
            xattrs: serde_json::from_str("[[\"security.capability\",\"01\"]]").unwrap(),
        };
        let was = PreviousState::File {
            attributes: there.clone(),
            bytes: 1,
        };
        let content = Content::Built("/x".into());
        let rules = |zone, ownership| Rules {
            zone,
            ownership,
            as_root: false,
            invoker: None,
            executable: None,
            was_made_executable: false,
        };
        let plan = |zone, ownership, was: &PreviousState| {
            plan_attributes(&rules(zone, ownership), &content, Some(&source), was)
        };
        use Ownership::{Keep, Source};
        let kept = plan(Zone::Rootfs, Keep, &was);
        assert_eq!(kept.mtime, (7, 0));
        assert_eq!((kept.mode, kept.owner), (0o2711, Some((0, 42))));
        assert_eq!(kept.xattrs, there.xattrs);
        let new = plan(Zone::Rootfs, Keep, &PreviousState::Nothing);
        assert_eq!((new.mode, new.owner), (0o755, Some((0, 0))));
        let literal = plan(Zone::Rootfs, Source, &was);
        assert_eq!((literal.mode, literal.owner), (0o4755, Some((1000, 1000))));
        assert_eq!(plan(Zone::Elsewhere, Source, &was).owner, None);
        // By sudo, a new file outside of rootfs/ belongs to the user.
        let by_sudo = Rules {
            as_root: true,
            invoker: Some((1000, 1001)),
            ..rules(Zone::Elsewhere, Keep)
        };
        let owner = |was| plan_attributes(&by_sudo, &content, Some(&source), was).owner;
        assert_eq!(owner(&PreviousState::Nothing), Some((1000, 1001)));
        assert_eq!(owner(&was), Some((0, 42)));
    }

    #[test]
    fn only_the_executable_bit_follows_git_and_only_a_bit_of_ours_is_removed() {
        let mode = |executable, was_made_executable, there| {
            let rules = Rules {
                zone: Zone::Rootfs,
                ownership: Ownership::Keep,
                as_root: false,
                invoker: None,
                executable,
                was_made_executable,
            };
            rules.mode(there)
        };
        assert_eq!(mode(Some(true), false, 0o644), 0o755);
        assert_eq!(mode(Some(true), false, 0o640), 0o750);
        assert_eq!(mode(Some(true), false, 0o4711), 0o4711);
        assert_eq!(mode(Some(false), false, 0o755), 0o755);
        assert_eq!(mode(Some(false), true, 0o755), 0o644);
        assert_eq!(mode(None, true, 0o755), 0o755);
    }
}
