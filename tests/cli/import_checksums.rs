//! `lbpayload import`: checksums are checked before a file gets its final name.

use crate::fixture::{Place, as_tree, checkout, fails_with, json, sample, spoil, sums_of};
use crate::support::{Image, sha256sum, tree};

fn names(place: &Place) -> Vec<String> {
    tree(&place.dest)
        .into_iter()
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn import_with_good_checksums_copies_everything() {
    let place = Place::new(&sample());
    let sums = place.file("SUMS", sums_of(&sample()));
    let ran = lb![
        "import",
        "--checksums",
        &sums,
        "--device",
        &place.image,
        &place.dest
    ]
    .exits(0);
    assert_eq!(ran.stderr, "");
    assert!(tree(&place.dest) == as_tree(&sample()));
}

#[test]
fn only_the_file_with_a_wrong_checksum_is_not_imported() {
    for wrong in ["a-empty", "b-small", "c-large", "d-medium"] {
        let place = Place::new(&sample());
        let sums = place.file("SUMS", spoil(&sums_of(&sample()), wrong));
        let ran = lb![
            "import",
            "--checksums",
            &sums,
            "--device",
            &place.image,
            &place.dest
        ]
        .exits(1);
        let mut expected = as_tree(&sample());
        expected.retain(|(name, _)| name != wrong);
        assert!(
            tree(&place.dest) == expected,
            "{wrong}: {:?}",
            names(&place)
        );
        let ran = ran
            .says(&format!("`{wrong}`"))
            .says("checksum does not match")
            .says("1 of 5 files");
        assert!(ran.stderr.contains(&*place.dest.to_string_lossy()));
    }
}

#[test]
fn file_with_a_wrong_checksum_does_not_replace_an_existing_file() {
    let place = Place::new(&sample());
    place.fill_dest(&[("b-small", b"the older"), ("c-large", b"the older")]);
    let spoiled = spoil(&spoil(&sums_of(&sample()), "b-small"), "c-large");
    let sums = place.file("SUMS", spoiled);
    lb![
        "import",
        "--checksums",
        &sums,
        "--device",
        &place.image,
        &place.dest
    ]
    .exits(1);
    assert_eq!(
        std::fs::read(place.dest.join("b-small")).unwrap(),
        b"the older"
    );
    assert_eq!(
        std::fs::read(place.dest.join("c-large")).unwrap(),
        b"the older"
    );
    assert_eq!(names(&place).len(), 5);
}

#[test]
fn existing_files_are_checked_too() {
    let place = Place::new(&sample());
    place.import().exits(0);
    let sums = place.file("SUMS", spoil(&sums_of(&sample()), "c-large"));
    lb![
        "import",
        "--checksums",
        &sums,
        "--device",
        &place.image,
        &place.dest
    ]
    .exits(1)
    .says("`c-large`")
    .says("checksum does not match");
}

#[test]
fn import_reports_files_without_checksum_and_checksums_without_file() {
    let place = Place::new(&sample());
    let (first, _) = {
        let sums = sums_of(&sample());
        let at = sums.find('\n').unwrap() + 1;
        (sums[..at].to_owned(), ())
    };
    let sums = place.file("SUMS", format!("{first}{}  absent\n", sha256sum(b"absent")));
    let ran = lb![
        "import",
        "--json",
        "--checksums",
        &sums,
        "--device",
        &place.image,
        &place.dest
    ];
    let ran = ran.says("4 files have no checksum").says("absent");
    let report = json(&ran);
    assert_eq!(report["unlisted"], 4);
    assert_eq!(report["missing"], serde_json::json!(["absent"]));
    assert!(tree(&place.dest) == as_tree(&sample()));
}

#[test]
fn invalid_checksums_stop_the_import_before_it_starts() {
    let place = Place::new(&sample());
    let sums = place.file("SUMS", format!("{}rubbish\n", sums_of(&sample())));
    let ran = lb![
        "import",
        "--json",
        "--checksums",
        &sums,
        "--device",
        &place.image,
        &place.dest
    ];
    let error = fails_with(ran.says("line 6: ").says("rubbish"), "syntax");
    assert_eq!(error["path"], sums.to_str().unwrap());
    assert!(!place.dest.exists());
    let missing = place.dir().join("NOT-THERE");
    lb![
        "import",
        "--checksums",
        &missing,
        "--device",
        &place.image,
        &place.dest
    ]
    .exits(1)
    .says("NOT-THERE");
    assert!(!place.dest.exists());
}

fn with_embedded(sums: &str) -> Image {
    let mut image = sample();
    image
        .files
        .push((b"SHA256SUMS".to_vec(), sums.as_bytes().to_vec()));
    image
}

#[test]
fn embedded_checksums_are_checked_by_default() {
    let image = with_embedded(&sums_of(&sample()));
    let place = Place::new(&image);
    let ran = lb!["import", "--json", "--device", &place.image, &place.dest].exits(0);
    assert_eq!(json(&ran)["checked"], 5);
    assert_eq!(ran.stderr, "");
    assert!(tree(&place.dest) == as_tree(&image));
}

#[test]
fn file_that_does_not_match_its_embedded_checksum_is_not_imported() {
    for wrong in ["b-small", "c-large"] {
        let image = with_embedded(&spoil(&sums_of(&sample()), wrong));
        let place = Place::new(&image);
        let ran = lb!["import", "--json", "--device", &place.image, &place.dest]
            .exits(1)
            .says(wrong);
        let failed = json(&ran)["failed"].as_array().unwrap().len();
        assert_eq!(failed, 1);
        let mut expected = as_tree(&image);
        expected.retain(|(name, _)| name != wrong);
        assert!(tree(&place.dest) == expected, "{:?}", names(&place));
    }
}

#[test]
fn checksums_that_differ_from_the_embedded_ones_stop_the_import() {
    let place = Place::new(&with_embedded(&sums_of(&sample())));
    let sums = place.file("SUMS", spoil(&sums_of(&sample()), "b-small"));
    lb![
        "import",
        "--checksums",
        &sums,
        "--device",
        &place.image,
        &place.dest
    ]
    .exits(1)
    .says("\"b-small\" has two different checksums");
    assert!(!place.dest.exists() || names(&place).is_empty());
}

#[test]
fn import_of_a_subset_is_checked_without_reporting_unused_checksums() {
    let place = Place::new(&sample());
    let sums = place.file("SUMS", spoil(&sums_of(&sample()), "b-small"));
    let ran = lb![
        "import",
        "--checksums",
        &sums,
        "--device",
        &place.image,
        &place.dest,
        "--files",
        "c-large"
    ];
    assert_eq!(ran.exits(0).stderr, "");
    let ran = lb![
        "import",
        "--checksums",
        &sums,
        "--device",
        &place.image,
        &place.dest,
        "--files",
        "b-small"
    ];
    ran.exits(1).says("checksum does not match");
    assert_eq!(names(&place), ["c-large"]);
}

#[test]
fn import_uses_checksums_from_a_live_bootstrap_checkout() {
    let place = Place::new(&Image::new(&[("gcc.tar", b"gcc"), ("musl.tar", b"musl")]));
    let manifest = "build: early\nimprove: get_network\nbuild: late\n";
    let late = format!(
        "f https://x/gcc.tar {}\nf https://x/musl.tar {}\n",
        sha256sum(b"gcc"),
        sha256sum(b"not musl")
    );
    let root = checkout(place.dir(), manifest, &[("late", &late)]);
    let ran = lb![
        "import",
        "--live-bootstrap",
        &root,
        "--device",
        &place.image,
        &place.dest
    ]
    .exits(1);
    ran.says("`musl.tar`").says("checksum does not match");
    assert_eq!(names(&place), ["gcc.tar"]);
}

#[test]
fn dry_run_does_not_check_checksums() {
    let place = Place::new(&sample());
    let sums = place.file("SUMS", sums_of(&sample()));
    lb![
        "import",
        "--dry-run",
        "--checksums",
        &sums,
        "--device",
        &place.image,
        &place.dest
    ]
    .exits(0);
    assert!(!place.dest.exists());
}
