//! The program is killed, or the power fails, at any write to a protected image: the payload is
//! never worse than before.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::protected_state::read_payload;
use crate::support::recorder::{What, each_state, kill_at, record};
use crate::support::{Image, Ran, TempDir, check, lbpayload, noise};

const BLOCK: usize = 4096;

/// A directory with inputs, and a protected image of other files.
struct Place {
    dir: TempDir,
    plain: Vec<u8>,
}

impl Place {
    fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let inputs = dir.path().join("in");
        std::fs::create_dir(&inputs).unwrap();
        for (name, len) in [("x", 70_000), ("y", 0), ("z", 20_001)] {
            std::fs::write(inputs.join(name), noise(len as u64, len)).unwrap();
        }
        let image = Image::new(&[
            ("a", &noise(1, 100_000)),
            ("b", b""),
            ("c", &noise(2, 60_001)),
        ]);
        let plain = image.bytes();
        std::fs::write(dir.path().join("img"), &plain).unwrap();
        Self { dir, plain }
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("img")
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.image()).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = lbpayload();
        command.current_dir(self.dir.path()).args(args);
        command
    }

    /// Makes the image hold `bytes`, runs the program on it, and checks the payload in each state
    /// that can be left. Returns the number of operations.
    #[track_caller]
    fn payload_stays(&self, before: &[u8], args: &[&str], again: Option<&[u8]>) -> usize {
        std::fs::write(self.image(), before).unwrap();
        let what = self.image();
        let Some(done) = record(&mut self.command(args), &What::This(&what)) else {
            return usize::MAX;
        };
        let after = self.bytes();
        each_state(before, &done, 7, &mut |what, state| {
            let read = read_payload(state.clone());
            assert!(read == Ok(Some(self.plain.clone())), "{args:?}, {what}");
            // It can be run again.
            if let Some(expected) = again {
                if what.starts_with("killed") {
                    std::fs::write(self.image(), state).unwrap();
                    check(&mut self.command(args));
                    assert!(self.bytes() == expected, "{args:?} again, {what}");
                }
            }
        });
        std::fs::write(self.image(), after).unwrap();
        done.len()
    }

    fn protected(&self) -> Vec<u8> {
        std::fs::write(self.image(), &self.plain).unwrap();
        check(&mut self.command(&["protect", "img"]));
        self.bytes()
    }
}

#[test]
fn protect_that_is_killed_leaves_the_payload_as_it_is_and_can_be_repeated() {
    let place = Place::make();
    let whole = place.protected();
    let done = place.payload_stays(&place.plain, &["protect", "img"], Some(&whole));
    assert!(done > 10, "{done}");
    // In the place of an older trailer, and of zeros.
    check(&mut place.command(&["protect", "--percent", "20", "img"]));
    let more = place.bytes();
    place.payload_stays(&whole, &["protect", "--percent", "20", "img"], Some(&more));
    place.payload_stays(&more, &["protect", "img"], None);
    let mut padded = place.plain.clone();
    padded.resize(1 << 20, 0);
    place.payload_stays(&padded, &["protect", "img"], None);
}

#[test]
fn removal_that_is_killed_leaves_the_payload_as_it_is() {
    let place = Place::make();
    let whole = place.protected();
    let done = place.payload_stays(&whole, &["protect", "--remove", "img"], None);
    assert!(done > 3, "{done}");
    assert!(place.bytes() == place.plain);
}

#[test]
fn repair_that_is_killed_makes_the_payload_no_worse_and_can_be_repeated() {
    let place = Place::make();
    let whole = place.protected();
    let start = place.plain.len().div_ceil(BLOCK);
    let end = whole.len() / BLOCK;
    for damaged in [
        vec![0],
        vec![3, 20],
        vec![0, start],
        vec![7, start + 1, start + 2],
        vec![0, 5, end - 2, end - 3],
        vec![start, start + 1, start + 2, start + 3],
    ] {
        let mut bad = whole.clone();
        for block in &damaged {
            bad[block * BLOCK..(block + 1) * BLOCK].fill(0x55);
        }
        let done = place.payload_stays(&bad, &["repair", "img"], Some(&whole));
        assert!(done > damaged.len(), "{damaged:?}: {done}");
        assert!(place.bytes() == whole);
    }
}

/// Kills a program that makes a new file at each of its writes. The old file stays.
#[track_caller]
fn old_file_stays(place: &Place, args: &[&str], out: &Path, new: &[u8]) {
    let dir = place.dir.path();
    for number in 0.. {
        std::fs::write(out, "old").unwrap();
        let what = What::NewIn(dir);
        let Some(killed) = kill_at(&mut place.command(args), &what, number) else {
            return;
        };
        if !killed {
            assert!(number > 10, "{args:?}: {number} writes");
            assert!(std::fs::read(out).unwrap() == new, "{args:?}");
            return;
        }
        assert_eq!(std::fs::read(out).unwrap(), b"old", "{args:?}, {number}");
        // What a killed run leaves behind.
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|suffix| suffix == "part") {
                std::fs::remove_file(path).unwrap();
            }
        }
    }
}

#[test]
fn pack_and_repair_to_a_file_that_are_killed_leave_the_old_file() {
    let place = Place::make();
    let whole = place.protected();
    let out = place.dir.path().join("out");
    let pack = ["pack", "--protect", "-o", "out", "in"];
    check(&mut place.command(&pack));
    let packed = std::fs::read(&out).unwrap();
    old_file_stays(&place, &pack, &out, &packed);
    let mut bad = whole.clone();
    bad[5 * BLOCK..6 * BLOCK].fill(0);
    std::fs::write(place.image(), &bad).unwrap();
    old_file_stays(&place, &["repair", "-o", "out", "img"], &out, &whole);
    assert!(place.bytes() == bad);
}

/// What was written to the new file is synced before it gets its name.
#[test]
fn pack_and_repair_to_a_file_sync_it_last() {
    let place = Place::make();
    let whole = place.protected();
    let mut bad = whole;
    bad[5 * BLOCK..6 * BLOCK].fill(0);
    std::fs::write(place.image(), &bad).unwrap();
    for args in [
        &["pack", "--protect", "-o", "out", "in"][..],
        &["repair", "-o", "out", "img"],
    ] {
        let what = What::NewIn(place.dir.path());
        let Some(done) = record(&mut place.command(args), &what) else {
            return;
        };
        let last = done
            .iter()
            .rposition(|op| *op != crate::support::recorder::Written::Sync);
        assert!(
            last < Some(done.len() - 1),
            "{args:?}: {last:?} of {}",
            done.len()
        );
    }
}

#[test]
fn recorder_records_what_is_written() {
    let place = Place::make();
    let what = place.image();
    let Some(done) = record(&mut place.command(&["protect", "img"]), &What::This(&what)) else {
        return;
    };
    let mut states = Vec::new();
    each_state(&place.plain, &done, 1, &mut |what, state| {
        if what.starts_with("killed") {
            states.push(state);
        }
    });
    assert!(*states.last().unwrap() == place.bytes());
    Ran::of(&mut place.command(&["verify", "img"])).exits(0);
}
