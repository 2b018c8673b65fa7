//! Properties that every command has.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use crate::fixture::{Place, as_tree, fails_with, json, sample};
use crate::support::{Image, Ran, lbpayload, tree};

pub(crate) const COMMANDS: &[&str] = &[
    "pack",
    "list",
    "show",
    "verify",
    "cat",
    "diff",
    "probe",
    "import",
    #[cfg(feature = "net")]
    "fetch",
    "protect",
    "repair",
    "mount",
    "unmount",
    "promote",
    "completions",
    "man",
];

#[test]
fn version_is_one_line_on_standard_output() {
    let expected = format!("lbpayload {}\n", env!("CARGO_PKG_VERSION"));
    for option in ["--version", "-V"] {
        let ran = lb![option].exits(0);
        assert_eq!((ran.stdout, ran.stderr), (expected.clone(), String::new()));
    }
}

#[test]
fn help_lists_every_command_and_the_exit_statuses() {
    let ran = lb!["--help"].exits(0);
    for command in COMMANDS {
        assert!(
            ran.stdout.contains(&format!("\n  {command}")),
            "{command}: {}",
            ran.stdout
        );
    }
    for part in [
        "0 done",
        "1 failed",
        "2 the command line",
        "3 nothing found",
        "4 more",
    ] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    assert_eq!(ran.stderr, "");
}

#[test]
fn every_command_has_help_and_a_version() {
    for command in COMMANDS {
        let ran = lb![command, "--help"].exits(0);
        assert!(
            ran.stdout.contains(&format!("Usage: lbpayload {command}")),
            "{}",
            ran.stdout
        );
        assert_eq!(ran.stderr, "");
        lb![command, "--version"].exits(0);
    }
}

#[test]
fn invalid_arguments_exit_with_2_and_show_the_usage() {
    for args in [
        &["--no-such-option"][..],
        &["no-such-command"],
        &["list"],
        &["list", "--no-such-option", "x"],
        &["list", "a", "b"],
        &["verify"],
        &["verify", "--checksums"],
        &["cat"],
        &["diff", "a"],
        &["probe", "--wrong"],
        &["import", "--existing", "perhaps", "d"],
        &["import", "--direct", "sometimes", "d"],
        &["import", "d", "e"],
        &["pack"],
        &["completions", "no-such-shell"],
        &["completions"],
        &["-q", "-v", "list", "x"],
        &["--progress", "loud", "list", "x"],
    ] {
        let ran = crate::support::run(args).exits(2);
        assert!(
            ran.stderr.starts_with("lbpayload: error: "),
            "{args:?}: {}",
            ran.stderr
        );
        assert!(ran.stderr.contains("--help"), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{args:?}");
    }
    let ran = Ran::of(&mut lbpayload()).exits(2);
    assert!(ran.stderr.contains("Usage: lbpayload"), "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
}

#[test]
fn missing_input_is_reported_with_its_name_and_the_system_error() {
    let place = Place::new(&sample());
    let missing = place.dir().join("missing.img");
    let said = format!("`{}`: No such file or directory", missing.display());
    for ran in [
        lb!["list", &missing],
        lb!["verify", &missing],
        lb!["cat", &missing, "x"],
        lb!["diff", &place.image, &missing],
        lb!["import", "--device", &missing, &place.dest],
    ] {
        let ran = ran.exits(1).says(&said);
        assert!(
            ran.stderr.starts_with("lbpayload: error: "),
            "{}",
            ran.stderr
        );
        assert_eq!(ran.stdout, "");
    }
    for ran in [
        lb!["list", "--json", &missing],
        lb!["verify", "--json", &missing],
        lb!["import", "--json", "--device", &missing, &place.dest],
    ] {
        let error = fails_with(ran, "source-missing");
        assert_eq!(error["path"], missing.to_str().unwrap());
    }
    assert!(!place.dest.exists());
}

#[test]
fn input_that_is_a_directory_or_character_device_is_refused() {
    let place = Place::new(&sample());
    let fifo = place.dir().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, found) in [
        (place.dir(), "found a directory"),
        (
            std::path::Path::new("/dev/zero"),
            "found a character device",
        ),
        (&fifo, "found a FIFO"),
    ] {
        for ran in [
            lb!["list", path],
            lb!["verify", path],
            lb!["cat", path, "x"],
            lb!["diff", path, &place.image],
            lb!["import", "--device", path, &place.dest],
        ] {
            let ran = ran.exits(1).says(found);
            assert!(
                ran.stderr
                    .contains(&format!("could not open `{}`: ", path.display())),
                "{}",
                ran.stderr
            );
            assert_eq!(ran.stdout, "");
        }
    }
    assert!(!place.dest.exists());
}

#[test]
fn closed_output_pipe_is_not_a_failure() {
    // More output than fits into a pipe, so that every command writes to the closed
    // pipe.
    let files: Vec<(String, Vec<u8>)> = (0..5000)
        .map(|i| (format!("a-rather-long-name-{i:05}"), vec![b'x'; 20]))
        .collect();
    let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(n, d)| (&**n, &**d)).collect();
    let place = Place::new(&Image::new(&borrowed));
    let large = place.file("large.img", sample().bytes());
    let packed = place.dir().join("large.img");
    let image = place.image.as_os_str();
    let commands: Vec<Vec<&std::ffi::OsStr>> = vec![
        vec!["list".as_ref(), image],
        vec!["list".as_ref(), "--json".as_ref(), image],
        vec!["cat".as_ref(), large.as_ref(), "c-large".as_ref()],
        vec![
            "pack".as_ref(),
            "-o".as_ref(),
            "-".as_ref(),
            packed.as_ref(),
        ],
        vec!["--help".as_ref()],
        vec!["man".as_ref()],
        vec!["completions".as_ref(), "bash".as_ref()],
        vec!["probe".as_ref(), image],
    ];
    for args in commands {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        let mut command = lbpayload();
        let out = command
            .args(&args)
            .stdout(OwnedFd::from(theirs))
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(0), "{args:?}: {stderr}");
        assert_eq!(stderr, "", "{args:?}");
    }
}

#[test]
fn full_output_is_a_failure_that_names_the_output() {
    let place = Place::new(&sample());
    let image = place.image.as_os_str();
    for args in [
        vec!["list".as_ref(), image],
        vec!["list".as_ref(), "--json".as_ref(), image],
        vec!["verify".as_ref(), "--json".as_ref(), image],
        vec!["cat".as_ref(), image, "c-large".as_ref()],
        vec!["pack".as_ref(), "-o".as_ref(), "-".as_ref(), image],
        vec!["diff".as_ref(), "--json".as_ref(), image, image],
        vec!["probe".as_ref(), image],
        vec!["man".as_ref()],
        vec!["--help".as_ref()],
    ] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let out = lbpayload()
            .args(&args)
            .stdout(full)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(
            stderr.contains("standard output") && stderr.contains("No space left on device"),
            "{args:?}: {stderr}"
        );
    }
}

#[test]
fn progress_is_not_shown_without_a_terminal_unless_requested() {
    let place = Place::new(&sample());
    let copy = place.dir().join("copy.img");
    let pack = lb!["pack", "-o", &copy, &place.image].exits(0);
    assert_eq!(pack.stderr.lines().count(), 1, "{}", pack.stderr);
    assert_eq!(place.import().exits(0).stderr, "");
    let none = lb!["--progress", "none", "verify", &place.image].exits(0);
    assert_eq!(none.stderr.lines().count(), 1, "{}", none.stderr);
}

#[test]
fn progress_json_has_one_object_per_line_and_ends_complete() {
    let place = Place::new(&sample());
    let copy = place.dir().join("copy.img");
    let image_bytes = sample().bytes().len();
    let data: usize = sample().files.iter().map(|f| f.1.len()).sum();
    for (ran, total) in [
        (
            lb![
                "pack",
                "-q",
                "--progress",
                "json",
                "-o",
                &copy,
                &place.image
            ],
            image_bytes,
        ),
        (
            lb!["verify", "-q", "--progress", "json", &place.image],
            data,
        ),
        (
            lb![
                "import",
                "--progress",
                "json",
                "--device",
                &place.image,
                &place.dest
            ],
            data,
        ),
    ] {
        let ran = ran.exits(0);
        let lines: Vec<serde_json::Value> = ran
            .stderr
            .lines()
            .map(|line| serde_json::from_str(line).expect(line))
            .collect();
        assert!(lines.len() >= 2, "{}", ran.stderr);
        let last = lines.last().unwrap();
        assert!(last["phase"].is_string(), "{last}");
        assert_eq!(
            (&last["bytes"], &last["total_bytes"]),
            (&total.into(), &total.into())
        );
    }
}

#[test]
fn progress_counts_only_files_that_are_read() {
    let place = Place::new(&sample());
    place.import().exits(0);
    std::fs::write(place.dest.join("c-large"), "shorter").unwrap();
    std::fs::remove_file(place.dest.join("d-medium")).unwrap();
    let ran = lb![
        "import",
        "--progress",
        "json",
        "--device",
        &place.image,
        &place.dest
    ];
    let lines = ran.exits(0).stderr;
    let compared = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect(line))
        .rfind(|line| line["phase"] == "comparing")
        .unwrap();
    let same = b"hello".len() + "größe".len();
    assert_eq!(compared["bytes"], same, "{compared}");
    assert_eq!(compared["total_bytes"], same, "{compared}");
}

#[test]
fn plain_progress_prints_readable_lines() {
    let place = Place::new(&sample());
    let ran = lb![
        "import",
        "--progress",
        "plain",
        "--device",
        &place.image,
        &place.dest
    ]
    .exits(0);
    let last = ran.stderr.lines().last().unwrap();
    assert!(
        last.starts_with("importing: 100 % (2.45 MiB of 2.45 MiB, "),
        "{}",
        ran.stderr
    );
}

#[test]
fn verbose_and_the_environment_variable_enable_the_log() {
    let place = Place::new(&sample());
    let made = "lbpayload: made the directory ";
    let import = |option: &str, log: &str, dest: &str| {
        let mut command = lbpayload();
        if !log.is_empty() {
            command.env("RUST_LOG", log);
        }
        command.args([option, "import", "--device"]);
        let dest = place.dir().join(dest);
        Ran::of(command.arg(&place.image).arg(dest)).exits(0)
    };
    import("-v", "", "first").says(made);
    import("--color=never", "info", "second").says(made);
    let ran = import("--color=never", "", "third");
    assert_eq!(ran.stderr, "");
    // Warnings are shown by default, and not with --quiet.
    std::fs::create_dir(&place.dest).unwrap();
    std::fs::write(place.dest.join("b-small"), "mine").unwrap();
    let keep = |quiet: &str| {
        lb![
            quiet,
            "import",
            "--existing",
            "keep",
            "--device",
            &place.image,
            &place.dest
        ]
        .exits(0)
    };
    assert_eq!(keep("--quiet").stderr, "");
    assert!(keep("--progress=none").stderr.contains("warning: "));
}

#[test]
fn completions_exist_for_every_shell() {
    for (shell, part) in [
        ("bash", "complete -F _lbpayload"),
        ("zsh", "#compdef lbpayload"),
        ("fish", "complete -c lbpayload"),
        ("elvish", "set edit:completion:arg-completer[lbpayload]"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let ran = lb!["completions", shell].exits(0);
        assert!(ran.stdout.contains(part), "{shell}");
        assert!(
            ran.stdout.contains("live-bootstrap"),
            "{shell} knows the options"
        );
    }
}

#[test]
fn man_prints_or_writes_a_page_for_each_command() {
    let ran = lb!["man"].exits(0);
    assert!(ran.stdout.contains(".TH lbpayload 1"), "{}", ran.stdout);
    let dir = tempfile::tempdir().unwrap();
    lb!["man", "--dir", dir.path()].exits(0);
    let mut expected: Vec<String> = COMMANDS
        .iter()
        .map(|command| format!("lbpayload-{command}.1"))
        .collect();
    expected.push("lbpayload.1".into());
    expected.sort();
    let pages = tree(dir.path());
    assert_eq!(
        pages
            .iter()
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>(),
        expected
    );
    for (name, text) in pages {
        assert!(
            text.starts_with(b".ie") || String::from_utf8_lossy(&text).contains(".TH"),
            "{name}"
        );
    }
    let missing = dir.path().join("missing");
    lb!["man", "--dir", &missing]
        .exits(1)
        .says(&missing.to_string_lossy());
}

#[test]
fn import_works_with_closed_standard_output() {
    let place = Place::new(&sample());
    let script = "exec \"$0\" import --device \"$1\" \"$2\" >&-";
    let ran = Ran::of(
        Command::new("sh")
            .args(["-c", script])
            .arg(lbpayload().get_program())
            .args([&place.image, &place.dest]),
    );
    ran.exits(0);
    assert!(tree(&place.dest) == as_tree(&sample()));
}

#[test]
fn json_report_is_not_mixed_with_messages() {
    let place = Place::new(&sample());
    std::fs::create_dir(&place.dest).unwrap();
    std::fs::write(place.dest.join("b-small"), "mine").unwrap();
    let ran = lb![
        "-vv",
        "--progress",
        "plain",
        "import",
        "--existing",
        "keep",
        "--json",
        "--device",
        &place.image,
        &place.dest
    ];
    json(&ran.exits(0));
}
