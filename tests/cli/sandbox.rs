//! Code that a payload has taken over reaches no file but those of the command.

use std::ffi::OsStr;

use crate::fixture::{Place, sample};
use crate::support::{Lacks, Ran, lbpayload, preload, skip};

/// Runs a command in which `breakout.c` tries to open a file.
fn taken_over<S: AsRef<OsStr>>(place: &Place, args: &[S]) -> Option<Ran> {
    let mut command = lbpayload();
    command.env("LD_PRELOAD", preload::library("breakout.c")?);
    command.env("BREAK_OUT", place.file("secret", "secret"));
    let ran = Ran::of(command.args(args).arg("-v"));
    if ran.stderr.contains("no Landlock") {
        skip(Lacks::Machine, "this kernel has no Landlock");
        return None;
    }
    Some(ran.exits(0))
}

fn commands(place: &Place) -> [Vec<&OsStr>; 6] {
    let (image, dest) = (place.image.as_os_str(), place.dest.as_os_str());
    [
        vec!["list".as_ref(), image],
        vec!["show".as_ref(), image],
        vec!["diff".as_ref(), image, image],
        vec!["verify".as_ref(), image],
        vec!["cat".as_ref(), image, "b-small".as_ref()],
        vec!["import".as_ref(), "--device".as_ref(), image, dest],
    ]
}

#[test]
fn code_that_is_taken_over_opens_no_other_file() {
    let place = Place::new(&sample());
    // It exists, so that only what lies beneath it may be written.
    place.fill_dest(&[]);
    for args in commands(&place) {
        let Some(ran) = taken_over(&place, &args) else {
            return;
        };
        assert!(
            ran.stderr.contains("breakout: read 13, write 13"),
            "{args:?}: {}",
            ran.stderr
        );
        // What is written before the source is open is not confined yet.
        assert!(
            ran.stderr.contains("sandbox: only reads"),
            "{args:?}: {}",
            ran.stderr
        );
    }
    assert!(!place.dir().join("secret.new").exists());
}

#[test]
fn with_no_sandbox_it_does() {
    let place = Place::new(&sample());
    for mut args in commands(&place) {
        args.insert(1, "--no-sandbox".as_ref());
        let Some(ran) = taken_over(&place, &args) else {
            return;
        };
        assert!(
            ran.stderr.contains("breakout: read 0, write 0"),
            "{args:?}: {}",
            ran.stderr
        );
        assert!(!ran.stderr.contains("sandbox:"), "{args:?}: {}", ran.stderr);
    }
}
