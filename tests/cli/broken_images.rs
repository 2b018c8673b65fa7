//! Every command that reads an image, with every kind of broken image.

use crate::damage_table::{GOOD, all};
use crate::fixture::{fails_with, json};
use crate::support::{Ran, lbpayload, tree};

#[test]
fn verify_reports_each_problem_with_entry_and_offset() {
    for case in all() {
        let place = case.place();
        let ran = lb!["verify", &place.image].exits(1);
        case.is_told(&ran, &place.image);
        assert!(
            !ran.stderr.contains(": OK"),
            "{}: {}",
            case.label,
            ran.stderr
        );
    }
}

#[test]
fn verify_json_reports_the_kind_of_each_problem() {
    for case in all() {
        let place = case.place();
        let report = json(&lb!["verify", "--json", &place.image].exits(1));
        assert_eq!(report["ok"], false, "{}", case.label);
        let problems = report["problems"].as_array().unwrap();
        assert_eq!(problems.len(), 1, "{}: {problems:?}", case.label);
        let problem = &problems[0];
        assert_eq!(problem["kind"], case.kind, "{}", case.label);
        assert_eq!(problem["index"].as_u64(), case.index, "{}", case.label);
        assert_eq!(problem["offset"], case.offset, "{}", case.label);
        assert!(problem["message"].is_string(), "{}", case.label);
    }
}

#[test]
fn list_reports_each_problem_and_shows_the_files_before_it() {
    for case in all() {
        let place = case.place();
        if case.kind == "name-repeated" {
            // Only verify looks for duplicate names. list shows both entries.
            let ran = lb!["list", &place.image];
            assert_eq!(ran.stdout.matches(" good\n").count(), 2, "{}", ran.stdout);
            continue;
        }
        let ran = lb!["list", &place.image].exits(1);
        case.is_told(&ran, &place.image);
        let good = "          20 good\n";
        assert_eq!(
            ran.stdout.starts_with(good),
            case.index.is_some(),
            "{}",
            case.label
        );
        let lines = match case.index {
            None => 0,
            Some(_) if case.is_about_a_name() && case.label.starts_with("u32") => 2,
            Some(_) if case.is_about_a_name() => 3,
            Some(index) => index as usize,
        };
        assert_eq!(
            ran.stdout.lines().count(),
            lines,
            "{}: {}",
            case.label,
            ran.stdout
        );
    }
}

#[test]
fn import_of_a_broken_image_creates_nothing() {
    for case in all() {
        let place = case.place();
        let ran = place.import().exits(1);
        case.is_told(&ran, &place.image);
        assert_eq!(ran.stdout, "", "{}", case.label);
        if place.dest.exists() {
            assert_eq!(tree(&place.dest), [], "{}", case.label);
        }
        assert_eq!(
            tree(place.dir()).len() - usize::from(place.dest.exists()),
            1,
            "{}",
            case.label
        );
    }
}

#[test]
fn import_json_reports_code_entry_and_offset_of_each_problem() {
    for case in all() {
        let place = case.place();
        let ran = lb!["import", "--json", "--device", &place.image, &place.dest];
        let error = fails_with(ran, case.kind);
        assert_eq!(error["kind"], "format", "{}", case.label);
        assert_eq!(
            error["path"],
            place.image.to_str().unwrap(),
            "{}",
            case.label
        );
        assert_eq!(error["entry"].as_u64(), case.index, "{}", case.label);
        assert_eq!(error["offset"], case.offset, "{}", case.label);
    }
}

#[test]
fn import_of_a_broken_image_keeps_existing_files_in_the_destination() {
    for case in all() {
        let place = case.place();
        place.fill_dest(&[("good", b"older"), ("mine", b"precious")]);
        let before = tree(&place.dest);
        for existing in ["replace", "keep", "error"] {
            let ran = lb![
                "import",
                "--existing",
                existing,
                "--device",
                &place.image,
                &place.dest
            ]
            .exits(1);
            case.is_told(&ran, &place.image);
            assert_eq!(tree(&place.dest), before, "{}", case.label);
        }
    }
}

#[test]
fn cat_prints_files_before_a_problem_and_fails_for_files_after_it() {
    for case in all() {
        let place = case.place();
        let ran = lb!["cat", &place.image, "good"];
        if case.index.is_none() {
            let ran = ran.exits(1);
            case.is_told(&ran, &place.image);
            assert_eq!(ran.stdout, "", "{}", case.label);
            continue;
        }
        assert_eq!(ran.exits(0).stdout.as_bytes(), GOOD.1, "{}", case.label);
        if !case.is_about_a_name() {
            let ran = lb!["cat", &place.image, "good", "after"].exits(1);
            case.is_told(&ran, &place.image);
            assert_eq!(ran.stdout, "", "{}", case.label);
        }
    }
}

#[test]
fn probe_reports_a_broken_image_as_corrupt_and_other_data_as_no_payload() {
    for case in all() {
        let place = case.place();
        let ran = lb!["probe", "--json", &place.image].exits(3);
        let expected = match case.kind {
            _ if case.bytes.is_empty() => "empty",
            "wrong-magic" => "no-magic",
            _ => "corrupt",
        };
        assert_eq!(json(&ran)[0]["verdict"], expected, "{}", case.label);
    }
}

#[test]
fn drop_in_probe_checks_only_the_magic() {
    for case in all() {
        let place = case.place();
        let link = place.dir().join("payload-import");
        std::os::unix::fs::symlink(lbpayload().get_program(), &link).unwrap();
        let mut command = std::process::Command::new(&link);
        let ran = Ran::of(command.arg("--probe").arg(&place.image));
        let status = i32::from(case.kind == "wrong-magic");
        assert_eq!(ran.status, Some(status), "{}", case.label);
    }
}

#[test]
fn drop_in_imports_nothing_from_a_broken_image() {
    for case in all() {
        let place = case.place();
        let link = place.dir().join("payload-import");
        std::os::unix::fs::symlink(lbpayload().get_program(), &link).unwrap();
        let mut command = std::process::Command::new(&link);
        let ran = Ran::of(command.arg("--device").arg(&place.image).arg(&place.dest)).exits(1);
        assert!(
            ran.stderr.starts_with("payload-import: ") && ran.stderr.lines().count() == 1,
            "{}: {}",
            case.label,
            ran.stderr
        );
        assert!(
            !ran.stdout.contains("payload-import: good"),
            "{}: {}",
            case.label,
            ran.stdout
        );
        if place.dest.exists() {
            assert_eq!(tree(&place.dest), [], "{}", case.label);
        }
    }
}
