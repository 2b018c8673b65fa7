//! The command line: help, invalid options, sources that are not payloads.

use crate::fixture::{Fixture, is_mounted, sample};
use crate::support::{Image, Ran, lbpayload, noise, tree};

fn run(args: &[&str]) -> Ran {
    Ran::of(lbpayload().args(args))
}

#[test]
fn help_names_every_option_and_exits_with_0() {
    let help = run(&["mount", "--help"]).exits(0);
    for option in [
        "-o",
        "-f",
        "--lenient",
        "--direct",
        "--ready-fd",
        "--index",
        "allow_other",
        "allow_root",
        "auto_unmount",
        "uid=ID",
        "gid=ID",
        "umask=OCTAL",
        "fsname=NAME",
        "offset=BYTES",
        "timeout=TIME",
        "max_threads=N",
        "log=FILE",
        "nolistxattr",
        "nosandbox",
        "/etc/fuse.conf",
        "direct_io",
        "noexec",
    ] {
        assert!(help.stdout.contains(option), "{option}");
    }
    assert!(run(&["mount", "-h"]).exits(0).stdout.contains("--help"));
    let help = run(&["unmount", "--help"]).exits(0);
    assert!(help.stdout.contains("--lazy"));
    assert_eq!(help.stderr, "");
}

#[test]
fn invalid_arguments_exit_with_2_and_are_named() {
    let fixture = Fixture::new(&sample());
    let (image, point) = (
        fixture.image.to_str().unwrap(),
        fixture.point.to_str().unwrap(),
    );
    for (args, named) in [
        (&["mount"][..], "<SRC>"),
        (&["mount", image], "<DIR>"),
        (&["mount", image, point, "more"], "'more'"),
        (&["mount", "--frobnicate", image, point], "'--frobnicate'"),
        (
            &["mount", "--direct=sometimes", image, point],
            "'sometimes'",
        ),
        (&["mount", "-o", image], "<SRC>"),
        (&["mount", "-o", "nope", image, point], "`nope`"),
        (&["mount", "-o", "ro,x=,uid=1", image, point], "`x=`"),
        (
            &["mount", "-o", "uid=no:name", image, point],
            "`uid=no:name`",
        ),
        (&["mount", "-o", "umask=999", image, point], "`umask=999`"),
        (
            &["mount", "-o", "offset=1.5M", image, point],
            "`offset=1.5M`",
        ),
        (
            &["mount", "-o", "offset=99999999999999999999", image, point],
            "99999999999999999999",
        ),
        (
            &["mount", "-o", "offset=17179869184G", image, point],
            "17179869184G",
        ),
        (&["mount", "-o", "timeout=-1", image, point], "`timeout=-1`"),
        (
            &["mount", "-o", "subtype=ext4", image, point],
            "`subtype=ext4`",
        ),
        (&["unmount"], "<DIR>"),
        (&["unmount", point, "more"], "'more'"),
    ] {
        let ran = run(args).exits(2).says(named);
        assert!(
            ran.stderr.starts_with("lbpayload: error: "),
            "{}",
            ran.stderr
        );
        assert_eq!(ran.stdout, "");
        assert!(!is_mounted(&fixture.point), "{args:?}");
    }
}

#[test]
fn invalid_source_is_refused_with_a_reason() {
    let fixture = Fixture::new(&sample());
    let dir = fixture.dir().to_path_buf();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let before = tree(&fixture.point);
    for (source, reason) in [
        (dir.join("missing"), "No such file or directory"),
        (dir.clone(), "directory"),
        (write("empty", b""), "is empty"),
        (write("noise", &noise(1, 9000)), "not a payload"),
        (write("short", b"LBPAYLD1"), "cut off"),
        ("/dev/null".into(), "/dev/null"),
        ("/dev/tty".into(), "/dev/tty"),
    ] {
        for how in [&[][..], &["--lenient"], &["--direct=auto"]] {
            let ran = fixture.mount_on(how, &source, &fixture.point).exits(1);
            ran.says("lbpayload: error: ").says(reason);
            assert!(tree(&fixture.point) == before);
        }
    }
}

#[test]
fn offset_after_the_end_or_not_at_a_payload_is_refused() {
    let image = sample();
    let fixture = Fixture::new(&image);
    let len = image.bytes().len();
    let at = |offset: usize| fixture.mount(&["-o", &format!("offset={offset}")]).exits(1);
    at(len + 1)
        .says(&(len + 1).to_string())
        .says(&len.to_string());
    at(len).says("is empty");
    at(1).says("not a payload");
    at(usize::MAX).says(&usize::MAX.to_string());
    assert!(!is_mounted(&fixture.point));
}

/// One image for each kind of problem.
fn broken() -> Vec<(&'static str, Vec<u8>)> {
    let cut = Image::new(&[("a", &[1; 100]), ("b", &[2; 5000])]).bytes();
    let mut oversized = Image::new(&[("a", b"1"), ("b", b"2")]);
    let at = oversized.header_offsets()[1];
    oversized.files[1].0 = b"c".to_vec();
    let mut name_length = oversized.bytes();
    name_length[at..at + 8].copy_from_slice(&5000_u64.to_le_bytes());
    let mut count = cut.clone();
    count[8..16].copy_from_slice(&(1_u64 << 32).to_le_bytes());
    vec![
        ("a count of 2^32", count),
        ("a file that is cut off", cut[..cut.len() - 3000].to_vec()),
        ("a header that is cut off", cut[..150].to_vec()),
        ("a name length", name_length),
        ("a slash", Image::new(&[("a", b""), ("b/c", b"")]).bytes()),
        ("dots", Image::new(&[("..", b"")]).bytes()),
        (
            "a name twice",
            Image::new(&[("a", b"1"), ("b", b"2"), ("a", b"3")]).bytes(),
        ),
        ("a control character", Image::new(&[("a\nb", b"")]).bytes()),
    ]
}

#[test]
fn broken_payload_is_refused_as_list_does_and_shown_with_lenient() {
    needs_fuse!();
    for (what, bytes) in broken() {
        let fixture = Fixture::with_bytes(&bytes);
        let listed = Ran::of(lbpayload().arg("list").arg(&fixture.image)).exits(1);
        let listed = listed.stderr.lines().next().unwrap();
        fixture.mount(&[]).exits(1).says(listed).says("--lenient");
        assert!(!is_mounted(&fixture.point));
        Ran::of(lbpayload().arg("verify").arg(&fixture.image)).exits(1);
        for how in [&["--lenient"][..], &["-o", "lenient"]] {
            let ran = fixture.mount(how).exits(0).says("lbpayload: warning: ");
            assert!(!ran.stderr.contains("error"), "{what}: {}", ran.stderr);
            assert!(std::fs::read_dir(&fixture.point).unwrap().count() <= 3);
            fixture.unmount(&[]).exits(0);
        }
        fixture.is_clean();
    }
}

#[test]
fn with_an_offset_option_messages_have_offsets_in_the_whole_image() {
    needs_fuse!();
    let image = Image::new(&[("a", b"1"), ("b/c", b"2")]);
    let fixture = Fixture::with_bytes(&[&noise(3, 1000)[..], &image.bytes()].concat());
    let at = format!("at offset {}", 1000 + image.header_offsets()[1]);
    fixture.mount(&["-o", "offset=1000"]).exits(1).says(&at);
    fixture
        .mount(&["-o", "offset=1000,lenient"])
        .exits(0)
        .says(&at);
    fixture.unmount(&[]).exits(0);
    let fixture = Fixture::with_bytes(&noise(3, 2000));
    fixture
        .mount(&["-o", "offset=1000"])
        .exits(1)
        .says("not a payload")
        .says("at offset 1000");
    fixture
        .mount(&["-o", "offset=5", "--offset", "1000"])
        .exits(1)
        .says("at offset 1000");
}

#[test]
fn first_ten_of_a_thousand_problems_are_listed() {
    needs_fuse!();
    let files = (0..1000).map(|n| (format!("a/{n}").into_bytes(), Vec::new()));
    let fixture = Fixture::new(&Image {
        wide: true,
        files: files.collect(),
    });
    let ran = fixture.mount(&["--lenient"]).exits(0);
    assert_eq!(ran.stderr.lines().count(), 11, "{}", ran.stderr);
    ran.says("1000 problems in all");
    assert_eq!(std::fs::read_dir(&fixture.point).unwrap().count(), 1000);
    let quiet = fixture.unmount(&[]).exits(0);
    assert_eq!(quiet.stderr, "");
    let mut command = lbpayload();
    command
        .args(["-q", "mount", "--lenient"])
        .arg(&fixture.image)
        .arg(&fixture.point);
    assert_eq!(Ran::of(&mut command).exits(0).stderr, "");
}

#[test]
fn options_without_an_effect_cause_warnings() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    let ran = fixture.mount(&["-o", "suid,dev"]).exits(0);
    ran.says("`suid` has no effect").says("`dev` has no effect");
}

#[test]
fn warning_has_the_entry_number_when_the_name_is_unreadable() {
    needs_fuse!();
    let mut image = sample().bytes();
    // The name length of the second entry is zero.
    let second = sample().header_offsets()[1];
    image[second..second + 8].fill(0);
    let fixture = Fixture::with_bytes(&image);
    let ran = fixture.mount(&["--lenient"]).exits(0);
    ran.says(&format!("entry 1, at offset {second}"))
        .says("the name length is 0");
    fixture.unmount(&[]).exits(0);
}
