//! A server that a payload has taken over reaches no other file, and can still be unmounted.

use std::fs;
use std::io::Read;

use crate::fixture::{Fixture, Foreground};
use crate::support::{Image, Lacks, lbpayload, preload, skip};

/// What a server with `breakout.c` in it says, from the mount to its end.
fn taken_over(options: &str) -> Option<String> {
    let fixture = Fixture::new(&Image::new(&[("a", b"content")]));
    let secret = fixture.dir().join("secret");
    fs::write(&secret, "secret").unwrap();
    let mut command = lbpayload();
    command.env("LD_PRELOAD", preload::library("breakout.c")?);
    command.env("BREAK_OUT", &secret);
    command.args(["mount", "-v", "-f", "-o", options]);
    command.arg(&fixture.image).arg(&fixture.point);
    let mut server = Foreground::start(&mut command, &fixture.point);
    assert_eq!(fs::read(fixture.point.join("a")).unwrap(), b"content");
    fixture.unmount(&[]).exits(0);
    assert_eq!(server.ends(), 0);
    let mut said = String::new();
    let mut stderr = server.0.stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    if said.contains("no Landlock") {
        skip(Lacks::Machine, "this kernel has no Landlock");
        return None;
    }
    Some(said)
}

#[test]
fn a_server_that_is_taken_over_opens_no_other_file() {
    needs_fuse!();
    let Some(said) = taken_over("auto_unmount") else {
        return;
    };
    // The message that it has begun is written when it has.
    let (_, after) = said.split_once("sandbox: only reads").unwrap();
    assert!(after.contains("breakout: read 13, write 13"), "{said}");
    assert!(!after.contains("breakout: read 0"), "{said}");
}

#[test]
fn with_nosandbox_it_does() {
    needs_fuse!();
    let Some(said) = taken_over("nosandbox") else {
        return;
    };
    assert!(said.contains("breakout: read 0, write 0"), "{said}");
}
