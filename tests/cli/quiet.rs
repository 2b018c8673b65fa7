//! `-q`: no messages and no warnings. Requested output and errors are still printed.

use std::path::Path;

use crate::fixture::{Place, sample, spoil, sums_of};
use crate::support::{Image, Ran};

/// The expected standard output of a quiet command.
enum Prints<'a> {
    /// The same as without `-q`.
    Same,
    /// This text.
    Only(&'a str),
}

/// Runs a command with and without `-q`.
#[track_caller]
fn check(args: &[&str], status: i32, prints: &Prints<'_>, prepare: &dyn Fn()) {
    prepare();
    let loud: Ran = crate::support::run(args).exits(status);
    prepare();
    let quiet = crate::support::run([&["-q"], args].concat()).exits(status);
    let expected = match prints {
        Prints::Same => &loud.stdout,
        Prints::Only(text) => *text,
    };
    assert_eq!(quiet.stdout, expected, "{args:?}");
    assert!(
        !matches!(prints, Prints::Same) || !loud.stdout.is_empty(),
        "{args:?} shows nothing that could be missed"
    );
    // Status 3 (nothing found) is not an error.
    let errors = quiet.stderr.lines();
    let labels = ["error", "note", "help"].map(|label| format!("lbpayload: {label}: "));
    assert!(
        errors
            .clone()
            .all(|line| labels.iter().any(|label| line.starts_with(label))),
        "{args:?}: {}",
        quiet.stderr
    );
    assert_eq!(
        errors.count() > 0,
        status == 1,
        "{args:?}: {}",
        quiet.stderr
    );
}

#[test]
fn quiet_command_prints_only_requested_output_and_errors() {
    use Prints::{Only, Same};
    let place = Place::new(&sample());
    let sums = sums_of(&sample());
    let unlisted = sums.lines().skip(1).map(|line| format!("{line}\n"));
    let good = place.file("good", unlisted.collect::<String>());
    let bad = place.file("bad", spoil(&sums, "b-small"));
    let noise = place.file("noise", [7; 4096]);
    let cut = place.file("cut.img", &sample().bytes()[..2_000_000]);
    let mut with_wrong_sum = sample();
    let spoiled = spoil(&sums, "b-small").into_bytes();
    with_wrong_sum.files.push((b"SHA256SUMS".to_vec(), spoiled));
    let wrong = place.file("wrong.img", with_wrong_sum.bytes());
    let out = place.dir().join("out");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (image, dest, out) = (text(&place.image), text(&place.dest), text(&out));
    let (good, bad, noise, cut, wrong) = (
        text(&good),
        text(&bad),
        text(&noise),
        text(&cut),
        text(&wrong),
    );
    let (image, dest, out) = (image.as_str(), dest.as_str(), out.as_str());
    let packed = format!("--output={out}");
    let protected = text(&place.file("protected.img", sample().bytes()));

    #[cfg(feature = "net")]
    let (list, mirror) = {
        let sum = crate::support::sha256sum(&[7; 4096]);
        let list = place.file("list", format!("_ {sum} noise\n"));
        (text(&list), format!("file://{}", place.dir().display()))
    };

    let rows: &[(&[&str], i32, Prints<'_>)] = &[
        (&["pack", &packed, image], 0, Only("")),
        (&["pack", &packed, "--json", image], 0, Same),
        (&["pack", &packed, "missing"], 1, Only("")),
        (&["pack", "-o", "-", image], 0, Same),
        (&["pack", &packed, "--dry-run", image], 0, Same),
        (&["list", image], 0, Same),
        (&["list", "--json", image], 0, Same),
        (&["list", &cut], 1, Same),
        (&["list", "missing"], 1, Only("")),
        (&["show", image], 0, Same),
        (&["show", &cut], 1, Same),
        (&["verify", image], 0, Only("")),
        (&["verify", "--checksums", &good, image], 0, Only("")),
        (
            &["verify", "--checksums", &bad, image],
            1,
            Only("b-small: FAILED\n"),
        ),
        (&["verify", "--json", image], 0, Same),
        (&["verify", "--json", "--checksums", &bad, image], 1, Same),
        (&["cat", image, "b-small"], 0, Same),
        (&["cat", image, "missing"], 1, Only("")),
        (&["diff", image, image], 0, Only("")),
        (&["diff", "--json", image, image], 0, Same),
        (&["diff", "missing", image], 1, Only("")),
        (&["probe", image], 0, Same),
        (&["probe", "--all", image], 0, Same),
        (&["probe", "--json", image, &noise], 0, Same),
        (&["probe", &noise], 3, Only("")),
        (&["probe", "--all", &noise], 3, Same),
        (&["import", "--device", image, dest], 0, Only("")),
        (&["import", "--device", image, "--dry-run", dest], 0, Same),
        (
            &["import", "--device", image, "--dry-run", "--json", dest],
            0,
            Only("json"),
        ),
        (
            &["import", "--device", image, "--checksums", &good, dest],
            0,
            Only(""),
        ),
        (&["import", "--device", &wrong, dest], 1, Only("")),
        (&["import", "--device", &cut, dest], 1, Only("")),
        #[cfg(feature = "net")]
        (
            &["fetch", "--list", &list, "--dest", dest, "--offline"],
            1,
            Same,
        ),
        #[cfg(feature = "net")]
        (
            &[
                "fetch", "--list", &list, "--dest", dest, "--mirror", &mirror,
            ],
            0,
            Only(""),
        ),
        (&["protect", "missing"], 1, Only("")),
        (&["repair", "missing"], 1, Only("")),
        (&["mount", "missing", dest], 1, Only("")),
        (&["protect", &protected], 0, Only("")),
        (&["repair", &protected], 0, Only("")),
        (&["unmount", "missing"], 1, Only("")),
        (&["promote", "--workspace", "missing"], 1, Only("")),
        (&["completions", "bash"], 0, Same),
        (&["man"], 0, Same),
    ];
    let remove_dest = || {
        let _ = std::fs::remove_dir_all(dest);
    };
    for (args, status, prints) in rows {
        if matches!(prints, Only("json")) {
            // The output contains the elapsed time.
            let ran = crate::support::run([&["-q"], *args].concat()).exits(*status);
            assert_eq!(crate::fixture::json(&ran)["dry_run"], true);
            continue;
        }
        check(args, *status, prints, &remove_dest);
    }
    for command in crate::every_command::COMMANDS {
        assert!(
            rows.iter().any(|(args, ..)| args[0] == *command),
            "{command}"
        );
    }
}

#[test]
fn quiet_import_does_not_report_kept_files() {
    let place = Place::new(&Image::new(&[("name", b"new")]));
    place.fill_dest(&[("name", b"mine")]);
    let args = ["import", "--existing", "keep", "--device"].map(Path::new);
    let args = [&args[..], &[&place.image, &place.dest]].concat();
    let loud = crate::support::run(&args).exits(0);
    assert!(!loud.stderr.is_empty());
    let quiet = crate::support::run([&[Path::new("-q")], &args[..]].concat()).exits(0);
    assert_eq!((quiet.stdout, quiet.stderr), (String::new(), String::new()));
}
