//! Inputs that change during `pack`. Through the library, because there a test
//! controls the moment.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use lbpayload::pack::{Inputs, Options, Plan, plan, to_file};
use lbpayload::progress::{Progress, Silent};
use lbpayload::{Error, Kind};

use crate::fixture::Place;
use crate::support::tree;

/// Larger than one read, so that the file can change between two reads.
const LEN: usize = 5 << 20;

struct Changing {
    place: Place,
    input: PathBuf,
    plan: Plan,
}

impl Changing {
    fn new() -> Self {
        let place = Place::with_bytes(b"the old image");
        let input = place.file("input", vec![7; LEN]);
        let inputs = Inputs::Paths(vec![input.clone()]);
        let plan = plan(&inputs, Options::default()).unwrap();
        Self { place, input, plan }
    }

    /// Packs and expects a failure that leaves the output unchanged.
    #[track_caller]
    fn refuses(&self, progress: &dyn Progress, why: &str) {
        let error: Error = to_file(&self.plan, &self.place.image, progress).unwrap_err();
        let message = error.to_string();
        assert_eq!(error.kind(), Kind::Changed, "{message}");
        assert!(error.help().is_some(), "{message}");
        for part in [&*self.input.to_string_lossy(), why] {
            assert!(message.contains(part), "no {part:?} in: {message}");
        }
        assert_eq!(std::fs::read(&self.place.image).unwrap(), b"the old image");
        assert_eq!(
            tree(self.place.dir()).len(),
            2,
            "nothing half-written is left"
        );
    }
}

/// Runs an action once, after the first bytes were read.
struct Then<F: Fn(&Path)>(Mutex<bool>, PathBuf, F);

impl<F: Fn(&Path) + Send + Sync> Progress for Then<F> {
    fn begin(&self, _phase: &str, _total_bytes: u64) {}
    fn advance(&self, _bytes: u64) {
        let mut done = self.0.lock().unwrap();
        if !*done {
            (self.2)(&self.1);
        }
        *done = true;
    }
    fn file_done(&self, _name: &str) {}
    fn end(&self) {}
    fn cancelled(&self) -> bool {
        false
    }
}

fn grow(path: &Path) {
    OpenOptions::new()
        .append(true)
        .open(path)
        .unwrap()
        .write_all(b"more")
        .unwrap();
}

fn shrink(path: &Path) {
    OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(LEN as u64 - 1)
        .unwrap();
}

#[test]
fn pack_of_an_unchanged_file_succeeds() {
    let changing = Changing::new();
    to_file(&changing.plan, &changing.place.image, &Silent).unwrap();
    assert_eq!(
        std::fs::metadata(&changing.place.image).unwrap().len(),
        16 + 16 + 5 + LEN as u64
    );
}

#[test]
fn pack_refuses_a_file_that_grew_or_shrank_since_it_was_planned() {
    let changing = Changing::new();
    grow(&changing.input);
    changing.refuses(&Silent, &format!("it had {LEN} bytes, now {}", LEN + 4));
    shrink(&changing.input);
    changing.refuses(&Silent, &format!("it had {LEN} bytes, now {}", LEN - 1));
}

#[test]
fn pack_refuses_a_file_that_was_rewritten_with_the_same_length() {
    let changing = Changing::new();
    let file = File::options().write(true).open(&changing.input).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    changing.refuses(&Silent, "it was written to");
}

#[test]
fn pack_refuses_a_fifo_in_place_of_the_file_without_waiting() {
    let changing = Changing::new();
    std::fs::remove_file(&changing.input).unwrap();
    nix::unistd::mkfifo(&changing.input, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = to_file(&changing.plan, &changing.place.image, &Silent).unwrap_err();
    assert_eq!(error.kind(), Kind::Changed, "{error}");
    assert_eq!(
        std::fs::read(&changing.place.image).unwrap(),
        b"the old image"
    );
}

#[test]
fn pack_refuses_a_file_that_grows_while_it_is_read() {
    let changing = Changing::new();
    let then = Then(Mutex::new(false), changing.input.clone(), grow);
    changing.refuses(&then, "it grew");
}

#[test]
fn pack_refuses_a_file_that_shrinks_while_it_is_read() {
    let changing = Changing::new();
    let then = Then(Mutex::new(false), changing.input.clone(), shrink);
    changing.refuses(&then, "it ended 1 bytes early");
}
