//! The documents: their transcripts, recordings and pictures are what a run gives, and their links
//! lead somewhere.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Ran, lbpayload};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All documents, as git knows them or as they are here.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![
        root().to_owned(),
        root().join("docs"),
        root().join("docs/bench"),
    ];
    dirs.extend([root().join("qemu"), root().join("examples")]);
    for dir in dirs {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn transcripts_and_pictures_are_what_a_run_gives() {
    if std::fs::File::open("/dev/fuse").is_err() {
        support::skip(
            support::Lacks::Setup,
            "no /dev/fuse for the transcript of mount",
        );
        return;
    }
    if !cfg!(feature = "net") {
        // A static build has no `fetch`, which has a transcript.
        return;
    }
    Ran::of(
        Command::new(root().join("scripts/documents"))
            .arg("--check")
            .env("LBPAYLOAD", lbpayload().get_program()),
    )
    .exits(0);
}

/// The anchors of a document: its headings as GitHub and mdbook link to them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut code = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        code ^= line.starts_with("```");
        if let (false, Some(heading)) = (code, line.strip_prefix('#')) {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter_map(|c| match c {
                ' ' => Some('-'),
                c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
                _ => None,
            });
            found.insert(kept.collect());
        }
    }
    found
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut links = 0;
    for path in documents() {
        let text = std::fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.contains("://") {
                continue;
            }
            links += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            let from = path.display();
            assert!(
                target.exists(),
                "{from} links to {link}, which does not exist"
            );
            if !anchor.is_empty() {
                let anchors = anchors(&std::fs::read_to_string(&target).unwrap());
                assert!(
                    anchors.contains(anchor),
                    "{from}: {link} has no such heading"
                );
            }
        }
    }
    assert!(links >= 50, "{links}");
}
