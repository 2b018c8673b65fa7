//! Input that is large, odd, or meant to do harm, and repositories in an odd state.

use std::fmt::Write;
use std::fs;

use crate::needs_root;
use crate::refusals::{failed, refused};
use crate::support::check;
use crate::workspace::Workspace;

const MANIFEST: &str = "Source/.build-manifest.yaml";

/// A manifest of `count` artifacts from one file.
fn many(it: &Workspace, count: usize) -> String {
    let src = it.put("Source/built", "x").display().to_string();
    let head = it.path(MANIFEST);
    let head = fs::read_to_string(head).unwrap();
    let mut text = head.split("artifacts:").next().unwrap().to_owned();
    text += "artifacts:\n";
    for number in 0..count {
        let dst = format!("kernel/{}/{number}.dtb", number % 100);
        write!(
            text,
            "  - kind: dtb\n    src: {src}\n    dst: {dst}\n    source_repo: nvidia-oot\n"
        )
        .unwrap();
    }
    text
}

#[test]
fn manifest_of_100_000_artifacts_is_planned() {
    needs_root!();
    let it = Workspace::new();
    let mut text = many(&it, 100_000);
    // As large as with the long paths of a real kernel.
    let comment = format!("# {}\n", "x".repeat(1000));
    text += &comment.repeat((24 << 20) / comment.len() - text.len() / comment.len());
    assert!(text.len() > 23 << 20, "{}", text.len());
    it.put(MANIFEST, text);
    let ran = it.promote(&["--dry-run", "-q"]).exits(0);
    let copied = ran
        .stdout
        .lines()
        .filter(|line| line.starts_with("copy kernel/"));
    assert_eq!(copied.count(), 100_001);
}

#[test]
fn manifest_beyond_the_limits_is_refused() {
    needs_root!();
    let it = Workspace::new();
    let large = fs::File::create(it.path(MANIFEST)).unwrap();
    large.set_len((64 << 20) + 1).unwrap();
    refused(&it, &[], "io", "longer than 64 MiB");
    it.put(MANIFEST, "- ".repeat(8 << 20));
    refused(&it, &[], "syntax", "more than 3,000,000 values");
    it.put(MANIFEST, "[".repeat(8 << 20));
    refused(&it, &[], "syntax", "nested too deeply");
    it.put(MANIFEST, "- ".repeat(100_000));
    refused(&it, &[], "syntax", ".build-manifest.yaml");
}

#[test]
fn anchors_tags_and_tabs_are_read_as_yaml_reads_them_or_refused() {
    needs_root!();
    let it = Workspace::new();
    let good = fs::read_to_string(it.path(MANIFEST)).unwrap();
    let src = good.lines().find(|line| line.contains("src:")).unwrap();
    let src = src
        .trim()
        .strip_prefix("src: ")
        .unwrap()
        .trim_matches('"')
        .to_owned();
    let with = |artifact: &str| {
        let head = good.split("artifacts:").next().unwrap();
        format!("{head}artifacts:\n{artifact}")
    };
    let plain = |src: &str, dst: &str| {
        with(&format!(
            "  - {{kind: dtb, src: {src}, dst: {dst}, source_repo: nvidia-oot}}\n"
        ))
    };
    let accepted = [
        // An alias is the text that its anchor names.
        plain(&format!("&s \"{src}\""), "kernel/x")
            + "  - {kind: dtb, src: *s, dst: kernel/y, source_repo: nvidia-oot}\n",
        plain(&format!("!!str \"{src}\""), "!!str kernel/x"),
        plain(&src, "\"kernel/\\x78\""),
    ];
    for text in accepted {
        it.put(MANIFEST, &text);
        let ran = it.promote(&["--dry-run"]).exits(0);
        assert!(
            ran.stdout.contains("copy kernel/x (manifest)"),
            "{}",
            ran.stdout
        );
    }
    for text in [
        plain("*unknown", "kernel/x"),
        plain(&src, "!!int kernel/x"),
        plain(&src, "kernel/x").replace("  - ", "\t- "),
        good.replace("    src:", "\tsrc:"),
        with("  &a - *a\n"),
        with("  <<: {src: x}\n"),
        format!("%YAML 9.9\n---\n{good}"),
        format!("{good}\u{0}"),
        good.replace("mode: full", "mode: \u{1b}[31m"),
        format!("&a [*a]\n{good}"),
    ] {
        it.put(MANIFEST, &text);
        let ran = it.promote(&["--dry-run", "--json"]);
        assert_eq!(ran.status, Some(1), "{text}");
        failed(ran, "syntax", ".build-manifest.yaml");
    }
    // Merge keys are not part of the schema: the fields are missing.
    it.put(
        MANIFEST,
        with(&format!(
            "  - &a {{kind: dtb, src: \"{src}\", dst: kernel/x, source_repo: nvidia-oot}}\n  \
             - {{<<: *a}}\n"
        )),
    );
    failed(
        it.promote(&["--dry-run", "--json"]),
        "syntax",
        "missing field `src`",
    );
}

#[test]
fn locked_and_shallow_repositories_can_be_promoted() {
    needs_root!();
    let it = Workspace::new();
    let bare = it.path("upstream.git");
    it.git(
        &it.path(""),
        &["init", "-q", "--bare", "-b", "main", "upstream.git"],
    );
    let overlay = it.overlay();
    it.write_overlay("bootloader/second.conf", "second\n");
    it.commit("second");
    it.git(&overlay, &["push", "-q", bare.to_str().unwrap(), "main"]);
    fs::remove_dir_all(&overlay).unwrap();
    let url = format!("file://{}", bare.display());
    let clone = ["clone", "-q", "--depth", "1", &url, "Linux_for_Tegra"];
    it.git(&it.path("Source"), &clone);
    for lock in ["index.lock", "HEAD.lock", "refs/heads/main.lock"] {
        it.put(format!("Source/Linux_for_Tegra/.git/{lock}"), "");
    }
    it.put("Source/bsp_sources/nvidia-oot/.git/index.lock", "");
    it.promote(&["--no-initramfs"]).exits(0);
    assert_eq!(it.read("bootloader/second.conf"), "second\n");
    // The commit before is not in a shallow clone.
    let args = ["--overlay-ref", "HEAD~1", "--json"];
    failed(it.promote(&args), "bad-reference", "HEAD~1");
}

#[test]
fn record_of_a_newer_version_is_refused_and_left_as_it_is() {
    needs_root!();
    let it = Workspace::new();
    it.promote(&[]).exits(0);
    let record = it.l4t(".lbpayload/journal/000002.jsonl");
    let newer = "{\"line\":\"begin\",\"id\":2,\"format\":2,\"version\":\"9.1.0\",\"x\":[]}\n\
                 {\"line\":\"something new\"}\n";
    fs::write(&record, newer).unwrap();
    let before = it.everything_and_when();
    it.write_overlay("bootloader/board.conf", "third\n");
    it.commit("third");
    for ran in [
        it.promote(&["--json"]),
        it.promote(&["--json", "--dry-run"]),
        it.action(&["status", "--json"]),
        it.action(&["history", "--json"]),
        it.action(&["rollback", "--json"]),
    ] {
        failed(ran, "newer-record", "(9.1.0)");
    }
    assert_eq!(it.everything_and_when(), before);
    check(std::process::Command::new("test").arg("-f").arg(&record));
}
