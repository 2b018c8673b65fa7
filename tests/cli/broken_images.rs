//! Every command that reads an image, against every way in which one can be broken.

use crate::damage_table::{GOOD, all};
use crate::fixture::{fails_with, json};
use crate::support::{Ran, lbpayload, tree};

#[test]
fn verify_tells_each_fault_with_its_entry_and_offset() {
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
fn verify_as_json_reports_each_fault_by_its_kind() {
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
fn list_tells_each_fault_and_shows_the_files_before_it() {
    for case in all() {
        let place = case.place();
        if case.kind == "name-repeated" {
            // Remembering every name is verify's; here both are seen.
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
fn import_of_a_broken_image_touches_nothing() {
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
fn import_as_json_reports_each_fault_by_its_code_entry_and_offset() {
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
fn import_of_a_broken_image_leaves_what_is_in_the_destination() {
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
fn cat_gives_what_lies_before_a_fault_and_fails_behind_it() {
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
fn probe_calls_a_broken_image_corrupt_and_anything_else_no_payload() {
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
fn the_drop_in_s_probe_asks_for_the_magic_and_for_nothing_else() {
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
fn the_drop_in_imports_nothing_of_a_broken_image() {
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
