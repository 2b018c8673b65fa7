//! The house is as ARCHITECTURE.md draws it: arrows point down, unsafe stays in
//! the files that are named, and every room is in the picture.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each room may know. `error`, `progress` and `sys` know nothing and are known to
/// all but `format`.
const ROOMS: &[(&str, &[&str])] = &[
    ("format", &[]),
    ("error", &[]),
    ("progress", &[]),
    ("sys", &[]),
    ("block", &["error", "progress", "sys"]),
    ("payload", &["error", "progress", "sys", "format", "block"]),
    ("durable", &["error", "progress", "sys", "block"]),
    (
        "probe",
        &["error", "progress", "sys", "format", "block", "payload"],
    ),
    (
        "pack",
        &[
            "error", "progress", "sys", "format", "block", "payload", "durable",
        ],
    ),
    (
        "verify",
        &["error", "progress", "sys", "format", "block", "payload"],
    ),
    (
        "import",
        &[
            "error", "progress", "sys", "format", "block", "payload", "durable",
        ],
    ),
    ("promote", &["error", "progress", "sys", "block", "durable"]),
    (
        "mount",
        &["error", "progress", "sys", "format", "block", "payload"],
    ),
    (
        "cli",
        &[
            "error", "progress", "sys", "format", "block", "payload", "durable", "probe", "pack",
            "verify", "import", "mount", "promote",
        ],
    ),
];

fn sources() -> Vec<(PathBuf, String)> {
    fn collect(dir: &Path, out: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                out.push((path, text));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut out = Vec::new();
    collect(&root, &mut out);
    assert!(out.len() > 30, "the walk finds the sources");
    out.into_iter()
        .map(|(p, t)| (p.strip_prefix(&root).unwrap().to_path_buf(), t))
        .collect()
}

/// The room that a file is in; `None` for lib.rs and main.rs, which only join.
fn room(path: &Path) -> Option<String> {
    let first = path.components().next()?.as_os_str().to_str()?;
    match first.strip_suffix(".rs").unwrap_or(first) {
        "lib" | "main" => None,
        room => Some(room.to_owned()),
    }
}

/// Rooms that a text names as `crate::ROOM`, in `use` groups too; comments aside.
fn known(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n");
    let mut rooms = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let group = rest.strip_prefix('{').and_then(|g| g.split('}').next());
        for item in group.map_or(vec![rest], |g| g.split(',').collect()) {
            let word: String = item
                .trim()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            rooms.insert(word);
        }
    }
    // What lib.rs gives out again at the top is the error room's.
    for again in ["Error", "Kind", "Result"] {
        if rooms.remove(again) {
            rooms.insert("error".into());
        }
    }
    rooms
}

#[test]
fn arrows_point_down_only() {
    let allowed: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    let mut bad = Vec::new();
    let mut arrows = 0;
    for (path, text) in sources() {
        let Some(room) = room(&path) else { continue };
        let Some(may) = allowed.get(room.as_str()) else {
            bad.push(format!(
                "{}: the room {room} is not in the picture",
                path.display()
            ));
            continue;
        };
        // A room's own tests may use anything.
        for other in known(text.split("#[cfg(test)]").next().unwrap_or("")) {
            arrows += 1;
            if other != room && !may.contains(&other.as_str()) {
                bad.push(format!("{}: {room} must not know {other}", path.display()));
            }
        }
    }
    assert!(arrows > 50, "the search finds the arrows: {arrows}");
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn the_search_for_arrows_sees_them_all() {
    let text = "use crate::block::X;\nuse crate::{format::Y, payload};\nlet z = crate::cli::main();\n// crate::ghost\nuse crate::Result;";
    let rooms: Vec<_> = known(text).into_iter().collect();
    assert_eq!(rooms, ["block", "cli", "error", "format", "payload"]);
}

#[test]
fn unsafe_is_only_in_the_files_that_architecture_md_names() {
    let document =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md"))
            .unwrap();
    let mut with_unsafe = Vec::new();
    for (path, text) in sources() {
        if text.contains("#![allow(unsafe_code)]") || text.contains("#[allow(unsafe_code)]") {
            with_unsafe.push(format!("src/{}", path.display()));
        }
    }
    assert!(!with_unsafe.is_empty());
    let section = document
        .split("## unsafe")
        .nth(1)
        .expect("a section on unsafe");
    let section = section.split("\n## ").next().unwrap();
    let mut named: Vec<String> = section
        .split('`')
        .filter(|word| word.starts_with("src/") && word.ends_with(".rs"))
        .map(str::to_owned)
        .collect();
    named.sort();
    with_unsafe.sort();
    assert_eq!(named, with_unsafe);
}

#[test]
fn architecture_md_shows_every_room_and_what_it_knows() {
    let document =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md"))
            .unwrap();
    for (room, knows) in ROOMS {
        let row = document
            .lines()
            .find(|line| line.starts_with(&format!("| `{room}")))
            .unwrap_or_else(|| panic!("no row for {room}"));
        let last = row.trim_end_matches('|').rsplit('|').next().unwrap();
        let said: BTreeSet<&str> = last.split([',', ' ']).filter(|w| !w.is_empty()).collect();
        let knows: BTreeSet<&str> = knows
            .iter()
            .copied()
            .filter(|r| !["error", "progress", "sys"].contains(r))
            .collect();
        let said: BTreeSet<&str> = said.into_iter().filter(|w| *w != "nothing").collect();
        assert_eq!(said, knows, "{room}");
    }
}
