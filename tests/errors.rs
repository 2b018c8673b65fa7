//! docs/errors.md lists every code that an error can have, and no others.

use std::collections::BTreeSet;
use std::path::Path;

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// Every source file of the library, without its tests.
fn sources(dir: &Path, out: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = read(&path);
            out.push(text.split("#[cfg(test)]\nmod tests").next().unwrap().into());
        }
    }
}

/// The quoted words after each `before` in `text`.
fn quoted(text: &str, before: &str) -> Vec<String> {
    let behind = text.split(before).skip(1);
    behind
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
        .map(str::to_owned)
        .collect()
}

/// The string literals in `text`, without comments.
fn strings(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim_start);
    let code: Vec<&str> = lines.filter(|line| !line.starts_with("//")).collect();
    let code = code.join("\n").replace("\\\n", "").replace("\\\"", "'");
    code.split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn library_errors_name_no_option_or_command_of_the_program() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(&src).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("cli") {
            sources(&path, &mut texts);
        }
    }
    texts.push(read(&src.join("error.rs")));
    let of_another_program = ["git -C", "git config", "blockdev", "chmod", "sudo"];
    let bad: Vec<String> = texts
        .iter()
        .flat_map(|text| strings(text))
        .filter(|said| said.contains(' ') && !of_another_program.iter().any(|p| said.contains(p)))
        .filter(|said| {
            let option = said.starts_with("--") || said.contains(" --") || said.contains("`--");
            option || said.contains("`lbpayload ") || said.contains("use lbpayload ")
        })
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn error_code_table_matches_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    sources(&root.join("src"), &mut texts);
    let mut codes = BTreeSet::new();
    for text in &texts {
        codes.extend(quoted(text, "with_code("));
        codes.extend(quoted(text, "code: "));
        codes.extend(quoted(text, "refuse("));
        // The codes of the error kinds and of the problems of an image.
        for function in ["pub fn code(&self)", "pub fn slug(&self)"] {
            if let Some(body) = text.split(function).nth(1) {
                codes.extend(quoted(body.split("\n    }\n").next().unwrap(), "=> "));
            }
        }
    }
    assert!(codes.len() > 20, "found too few codes: {codes:?}");
    let page = read(&root.join("docs/errors.md"));
    let listed: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(listed, codes);
}
