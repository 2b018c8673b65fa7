//! Counts a payload once that several devices show.

use crate::block::{Device, is_held};
use crate::payload::Sha256Sum;

use super::finding::Finding;

/// Returns for each finding which other finding shows the same data and counts instead of it.
///
/// Two devices show the same payload if their headers are the same and /sys shows that one
/// is stacked on the other (`slaves`, a loop device's backing device, a partition at sector
/// 0), or that both are loop devices of one file. Without /sys, they do if one is a dm or md
/// device and the other is in use (according to O_EXCL). Equal headers alone are not enough,
/// because two sticks may hold copies.
pub(super) fn shown_by(findings: &[Finding]) -> Vec<Option<usize>> {
    let seen: Vec<Seen<'_>> = findings
        .iter()
        .map(|f| Seen {
            device: &f.device,
            print: f.fingerprint,
            held: is_held(&f.path),
        })
        .collect();
    hidden(&seen)
}

struct Seen<'a> {
    device: &'a Device,
    print: Option<Sha256Sum>,
    held: bool,
}

fn hidden(seen: &[Seen<'_>]) -> Vec<Option<usize>> {
    (0..seen.len())
        .map(|me| (0..seen.len()).find(|&other| other != me && hides(seen, other, me)))
        .collect()
}

/// Returns whether `lower` does not count because of `upper`.
fn hides(seen: &[Seen<'_>], upper: usize, lower: usize) -> bool {
    let (up, low) = (&seen[upper], &seen[lower]);
    if up.print.is_none() || up.print != low.print {
        return false;
    }
    if shows(seen, up.device, low.device, seen.len()) {
        return true;
    }
    if up.device.backing.is_some() && up.device.backing == low.device.backing {
        return upper < lower;
    }
    let no_sys = up.device.lower.is_empty() && low.device.lower.is_empty();
    no_sys && up.device.kind.is_stacked() && !low.device.kind.is_stacked() && low.held
}

/// Returns whether `upper` is stacked on `lower`, directly or through other devices. `depth`
/// limits the search, in case /sys ever shows a cycle.
fn shows(seen: &[Seen<'_>], upper: &Device, lower: &Device, depth: usize) -> bool {
    depth > 0
        && upper.lower.iter().any(|name| {
            *name == lower.name
                || seen
                    .iter()
                    .filter(|s| s.device.name == *name)
                    .any(|s| shows(seen, s.device, lower, depth - 1))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::DeviceKind;

    fn counted(seen: &[Seen<'_>]) -> Vec<bool> {
        hidden(seen).iter().map(Option::is_none).collect()
    }

    fn device(name: &str, kind: DeviceKind, lower: &[&str]) -> Device {
        Device {
            name: name.into(),
            major: 1,
            minor: 1,
            kind,
            size_bytes: None,
            lower: lower.iter().map(|s| (*s).into()).collect(),
            backing: None,
        }
    }

    fn count(devices: &[(Device, &str, bool)]) -> Vec<bool> {
        let seen: Vec<_> = devices
            .iter()
            .map(|(device, text, held)| Seen {
                device,
                print: Some(Sha256Sum::of(text.as_bytes())),
                held: *held,
            })
            .collect();
        counted(&seen)
    }

    #[test]
    fn only_the_top_of_a_stack_counts() {
        use DeviceKind::*;
        let disk = || (device("sda", Disk, &[]), "x", true);
        let dm = || (device("dm-0", Dm, &["sda"]), "x", true);
        let top = || (device("dm-1", Dm, &["dm-0"]), "x", false);
        assert_eq!(count(&[disk(), dm(), top()]), [false, false, true]);
        assert_eq!(
            count(&[disk(), top()]),
            [true, true],
            "the middle is not a payload"
        );
    }

    #[test]
    fn a_stack_with_other_bytes_and_two_equal_disks_count_each() {
        use DeviceKind::*;
        let crypt = (device("dm-0", Dm, &["sda"]), "inside", false);
        assert_eq!(
            count(&[(device("sda", Disk, &[]), "outside", true), crypt]),
            [true, true]
        );
        let disk = |name| (device(name, Disk, &[]), "x", false);
        assert_eq!(count(&[disk("sda"), disk("sdb")]), [true, true]);
    }

    #[test]
    fn without_sys_a_held_disk_below_an_equal_dm_does_not_count() {
        use DeviceKind::*;
        let disk = |held| (device("sda", Disk, &[]), "x", held);
        let dm = || (device("dm-0", Dm, &[]), "x", false);
        assert_eq!(count(&[disk(true), dm()]), [false, true]);
        assert_eq!(count(&[disk(false), dm()]), [true, true]);
    }

    #[test]
    fn two_loop_devices_of_one_file_count_once() {
        let of = |name: &str| {
            let mut device = device(name, DeviceKind::Loop, &[]);
            device.backing = Some(("/img".into(), 0));
            (device, "x", false)
        };
        assert_eq!(count(&[of("loop0"), of("loop1")]), [true, false]);
    }
}
