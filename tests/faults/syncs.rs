//! The system calls of the program and their order, as strace shows them. No other
//! test would notice a missing sync, except after a power cut on a file system that
//! needs the sync.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use crate::support::{Image, Lacks, Ran, lbpayload, noise, skip};

/// Successful calls, in the order in which they ended.
struct Calls(Vec<String>);

impl Calls {
    /// Runs the program with these arguments and expects success. `None` (with a skip
    /// message) where programs cannot be traced.
    fn of(args: &[&Path]) -> Option<Self> {
        Self::of_program(Path::new(lbpayload().get_program()), args)
    }

    /// Like [`Calls::of`], with another name for the program.
    fn of_program(program: &Path, args: &[&Path]) -> Option<Self> {
        let mut attempt = Command::new("strace");
        let why = match attempt.args(["-o", "/dev/null", "true"]).output() {
            Ok(out) if out.status.success() => None,
            Ok(out) => Some(String::from_utf8_lossy(&out.stderr).into_owned()),
            Err(e) => Some(e.to_string()),
        };
        if let Some(why) = why {
            skip(Lacks::Setup, &format!("strace: {}", why.trim_end()));
            return None;
        }
        let temp = tempfile::tempdir().unwrap();
        let trace = temp.path().join("trace");
        let mut command = Command::new("strace");
        command
            .args(["-f", "-y", "-e", "trace=%file,%desc", "-o"])
            .arg(&trace)
            .arg(program)
            .args(args)
            .env_remove("RUST_LOG");
        Ran::of(&mut command).exits(0);
        Some(Self::parse(&std::fs::read_to_string(&trace).unwrap()))
    }

    /// Lines have the form `PID call(...) = result`. With several threads, one call
    /// may need two lines: `PID call(... <unfinished ...>` and `PID <... call
    /// resumed>...) = result`.
    fn parse(trace: &str) -> Self {
        let mut calls = Vec::new();
        let mut unfinished: HashMap<&str, &str> = HashMap::new();
        for line in trace.lines() {
            let (pid, text) = line.split_once(' ').unwrap();
            let text = text.trim_start();
            if let Some(start) = text.strip_suffix("<unfinished ...>") {
                unfinished.insert(pid, start);
                continue;
            }
            let call = match text.split_once(" resumed>") {
                Some((_, end)) if text.starts_with("<... ") => {
                    unfinished.remove(pid).unwrap_or_default().to_owned() + end
                }
                _ => text.to_owned(),
            };
            let result = call.rsplit_once(" = ").map_or("-", |(_, result)| result);
            if !result.starts_with('-') {
                calls.push(call);
            }
        }
        Self(calls)
    }

    /// The positions of the calls that have one of these names and contain this text.
    /// There must be at least one.
    #[track_caller]
    fn find(&self, names: &[&str], text: &str) -> Vec<usize> {
        let is = |call: &str| {
            let name = call.split('(').next().unwrap_or_default();
            names.contains(&name) && call.contains(text)
        };
        let found: Vec<usize> = (0..self.0.len()).filter(|&at| is(&self.0[at])).collect();
        assert!(!found.is_empty(), "no {names:?} of {text}: {:#?}", self.0);
        found
    }

    /// Asserts that one of `between` comes after all of `first` and before all of
    /// `last`.
    #[track_caller]
    fn assert_order(&self, first: &[usize], between: &[usize], last: &[usize]) {
        let (after, before) = (first.iter().max().unwrap(), last.iter().min().unwrap());
        assert!(
            between.iter().any(|at| after < at && at < before),
            "{first:?}, then {between:?}, then {last:?}: {:#?}",
            self.0
        );
    }
}

const WRITES: &[&str] = &["write", "pwrite64", "pwritev2"];
const SYNCS: &[&str] = &["fsync", "fdatasync"];
const NAMINGS: &[&str] = &["rename", "renameat", "renameat2", "link", "linkat"];

/// `path` as strace shows it for an open descriptor.
fn open_on(path: &Path) -> String {
    format!("<{}>", path.canonicalize().unwrap().display())
}

#[test]
fn packed_image_is_synced_before_its_rename_and_its_directory_after_it() {
    let temp = tempfile::tempdir().unwrap();
    let (input, out) = (temp.path().join("input"), temp.path().join("out"));
    std::fs::create_dir(&out).unwrap();
    std::fs::write(&input, noise(1, 100_000)).unwrap();
    let image = out.join("image");
    let args = [Path::new("pack"), Path::new("-o"), &image, &input];
    let Some(calls) = Calls::of(&args) else {
        return;
    };
    let written = calls.find(WRITES, ".part>");
    let synced = calls.find(SYNCS, ".part>");
    let named = calls.find(NAMINGS, "/image\"");
    let name_synced = calls.find(SYNCS, &open_on(&out));
    calls.assert_order(&written, &synced, &named);
    calls.assert_order(&named, &name_synced, &[calls.0.len()]);
}

#[test]
fn imported_files_are_synced_before_their_rename_and_the_directory_after_it() {
    let temp = tempfile::tempdir().unwrap();
    let (image, dest) = (temp.path().join("image"), temp.path().join("dest"));
    let files: &[(&str, &[u8])] = &[("large", &noise(1, 300_000)), ("small", b"x")];
    Image::new(files).write(&image);
    std::fs::create_dir(&dest).unwrap();
    let args = ["import", "--device"].map(Path::new);
    let Some(calls) = Calls::of(&[args[0], args[1], &image, &dest]) else {
        return;
    };
    let dest = dest.canonicalize().unwrap();
    let staging = dest.join(lbpayload::durable::STAGING_NAME);
    // strace does not show what io_uring writes.
    let written = calls.find(WRITES, &format!("<{}/", staging.display()));
    let staging_synced = calls.find(SYNCS, &format!("<{}>", staging.display()));
    let named = calls.find(NAMINGS, &format!("{}, \"", open_on(&dest)));
    assert_eq!(named.len(), files.len(), "{:#?}", calls.0);
    let names_synced = calls.find(SYNCS, &open_on(&dest));
    let told = calls.find(&["write"], "write(1<");
    calls.assert_order(&written, &staging_synced, &named);
    calls.assert_order(&named, &names_synced, &told);
    calls.assert_order(&named, &staging_synced, &told);
}

#[test]
fn existing_files_are_synced_before_they_are_reported() {
    let temp = tempfile::tempdir().unwrap();
    let (image, dest) = (temp.path().join("image"), temp.path().join("dest"));
    std::fs::create_dir(&dest).unwrap();
    // As a run leaves them that was interrupted before it had synced the names. There
    // are more files than fit into one write to standard output.
    let names: Vec<String> = (0..600).map(|n| format!("{n:0200}")).collect();
    for name in &names {
        std::fs::write(dest.join(name), "kept").unwrap();
    }
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (&name[..], &b"kept"[..])).collect();
    Image::new(&files).write(&image);
    let drop_in = temp.path().join("payload-import");
    std::os::unix::fs::symlink(lbpayload().get_program(), &drop_in).unwrap();
    let args = [Path::new("--device"), &image, &dest];
    let Some(calls) = Calls::of_program(&drop_in, &args) else {
        return;
    };
    let looked_at = calls.find(&["openat"], &names[0]);
    let synced = calls.find(SYNCS, &open_on(&dest.canonicalize().unwrap()));
    let told = calls.find(&["write"], "payload-import: 00000");
    calls.assert_order(&looked_at, &synced, &told);
}

#[cfg(feature = "net")]
#[test]
fn fetched_file_is_synced_before_its_rename_and_the_directory_after_it() {
    let temp = tempfile::tempdir().unwrap();
    let data = noise(1, 200_000);
    std::fs::write(temp.path().join("file"), &data).unwrap();
    let list = temp.path().join("list");
    let sum = crate::support::sha256sum(&data);
    std::fs::write(&list, format!("_ {sum} file\n")).unwrap();
    let dest = temp.path().join("dest");
    let mirror = format!("--mirror=file://{}", temp.path().display());
    let args = ["fetch", "--dest", dest.to_str().unwrap(), &mirror, "--list"];
    let args: Vec<&Path> = args.iter().map(Path::new).chain([&*list]).collect();
    let Some(calls) = Calls::of(&args) else {
        return;
    };
    let writes = calls.find(WRITES, ".lbpayload-fetch-");
    let syncs = calls.find(SYNCS, ".lbpayload-fetch-");
    let named = calls.find(NAMINGS, "\"file\"");
    calls.assert_order(&writes, &syncs, &named);
    let directory = calls.find(SYNCS, &open_on(&dest));
    calls.assert_order(&named, &directory, &[usize::MAX]);
}
