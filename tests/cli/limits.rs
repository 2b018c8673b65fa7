//! Limits of the process: the help names the limit, whatever was being done.

use std::ffi::OsStr;
use std::process::Command;

use crate::fixture::{Place, json, sample};
use crate::support::{Ran, lbpayload};

/// Runs the program with `limit` set by the shell.
fn run_with(limit: &str, args: &[&OsStr]) -> Ran {
    let script = format!("trap '' XFSZ; {limit}; exec \"$0\" \"$@\"");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).arg(lbpayload().get_program());
    Ran::of(shell.args(args))
}

#[track_caller]
fn fails_for(ran: &Ran, code: &str, option: &str) {
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    let error = &json(ran)["error"];
    assert_eq!(error["code"], code, "{error}");
    let help = error["help"][0].as_str().unwrap_or_default();
    assert!(help.contains(option), "{error}");
}

#[test]
fn with_too_few_open_files_the_help_is_to_raise_the_limit() {
    let place = Place::new(&sample());
    let out = place.dir().join("out.img");
    let [import, pack] = ["import", "pack"].map(OsStr::new);
    let [json, device, output] = ["--json", "--device", "-o"].map(OsStr::new);
    let (image, dest, out) = (
        place.image.as_os_str(),
        place.dest.as_os_str(),
        out.as_os_str(),
    );
    let commands = [
        vec![import, json, device, image, dest],
        vec![pack, json, output, out, image],
    ];
    for args in commands {
        let mut failed = 0;
        // With each descriptor more, another step fails.
        for descriptors in 4..14 {
            let ran = run_with(&format!("ulimit -n {descriptors}"), &args);
            if ran.status != Some(0) {
                fails_for(&ran, "too-many-open-files", "ulimit -n");
                failed += 1;
            }
        }
        assert!(failed > 0, "{args:?}");
    }
}

#[test]
fn a_file_above_the_size_limit_is_told_so() {
    let place = Place::new(&sample());
    let out = place.dir().join("out.img");
    let args = ["import", "--json", "--device"].map(OsStr::new);
    let args = [
        &args[..],
        &[place.image.as_os_str(), place.dest.as_os_str()],
    ]
    .concat();
    let ran = run_with("ulimit -f 200", &args);
    fails_for(&ran, "file-too-large", "ulimit -f");
    // Again, with files that are complete: a note of the error.
    std::fs::write(place.dest.join("b-small"), "hello").unwrap();
    let ran = run_with("ulimit -f 200", &args);
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert!(lines[0].contains("error: could not"), "{lines:?}");
    assert!(lines[1].contains("files are complete in"), "{lines:?}");
    assert!(lines.len() <= 3, "{lines:?}");
    let args = ["pack", "--json", "-o"].map(OsStr::new);
    let args = [&args[..], &[out.as_os_str(), place.image.as_os_str()]].concat();
    fails_for(
        &run_with("ulimit -f 200", &args),
        "file-too-large",
        "ulimit -f",
    );
    assert!(!out.exists());
}
