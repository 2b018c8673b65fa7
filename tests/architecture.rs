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

/// The files that each file of `room` imports, by their paths as modules (`tree::bytes`).
fn imports(room: &str) -> BTreeMap<String, BTreeSet<String>> {
    let texts: BTreeMap<String, String> = sources()
        .into_iter()
        .filter_map(|(path, text)| {
            let path = path.strip_prefix(room).ok()?.with_extension("");
            let module = path.to_str()?.replace('/', "::");
            Some((module, text))
        })
        .filter(|(module, _)| module != "mod")
        .collect();
    let is_dir = |module: &str| texts.contains_key(&format!("{module}::mod"));
    let mut imports = BTreeMap::new();
    for (module, text) in &texts {
        let code = text.split("#[cfg(test)]").next().unwrap_or("");
        let code: Vec<&str> = code.lines().filter_map(|l| l.split("//").next()).collect();
        let code = code.join("\n");
        let above = module.rsplit_once("::").map_or("", |(above, _)| above);
        let mut found = BTreeSet::new();
        for (prefix, base) in [(format!("crate::{room}::"), ""), ("super::".into(), above)] {
            for (at, _) in code.match_indices(&prefix) {
                let mut rest = &code[at + prefix.len()..];
                // A module within a file has the file's own names.
                if rest.starts_with('*') {
                    continue;
                }
                let mut at = base.to_owned();
                loop {
                    let word: String = rest
                        .chars()
                        .take_while(|c| c.is_alphanumeric() || *c == '_')
                        .collect();
                    let next = if at.is_empty() {
                        word.clone()
                    } else {
                        format!("{at}::{word}")
                    };
                    if texts.contains_key(&next) {
                        found.insert(next);
                        break;
                    }
                    if !word.is_empty() && is_dir(&next) {
                        (at, rest) = (next, &rest[word.len()..]);
                        rest = rest.trim_start_matches("::");
                        continue;
                    }
                    // A group of a folder's files, or what the folder itself has.
                    let group = rest.strip_prefix('{').and_then(|g| g.split('}').next());
                    for item in group.unwrap_or(&word).split(',').map(str::trim) {
                        let file = if at.is_empty() {
                            item.to_owned()
                        } else {
                            format!("{at}::{item}")
                        };
                        let is_file = texts.contains_key(&file);
                        found.insert(if is_file { file } else { format!("{at}::mod") });
                    }
                    break;
                }
            }
        }
        found.remove(module);
        imports.insert(module.clone(), found);
    }
    imports
}

/// Those that are left when all that import nothing are taken away, again and again.
fn circle(mut imports: BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    loop {
        let done: Vec<String> = imports
            .iter()
            .filter(|(_, others)| others.is_empty())
            .map(|(module, _)| module.clone())
            .collect();
        if done.is_empty() {
            return imports.into_keys().collect();
        }
        for module in done {
            imports.remove(&module);
            for others in imports.values_mut() {
                others.remove(&module);
            }
        }
    }
}

#[test]
fn no_files_and_no_sub_rooms_of_promote_import_each_other_in_a_circle() {
    let files = imports("promote");
    let edges: usize = files.values().map(BTreeSet::len).sum();
    assert!(edges > 80, "the search finds the imports: {edges}");
    let room = |module: &str| module.split("::").next().unwrap().to_owned();
    let mut rooms: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, others) in &files {
        // What a folder itself has is what its files know, so they must not ask it.
        assert!(
            others.iter().all(|other| !other.ends_with("::mod")),
            "{module}: {others:?}"
        );
        let here = room(module);
        let others = others.iter().map(|other| room(other));
        rooms
            .entry(here.clone())
            .or_default()
            .extend(others.filter(|other| *other != here));
    }
    assert_eq!(circle(files), Vec::<String>::new());
    assert_eq!(circle(rooms.clone()), Vec::<String>::new());

    // Each knows only those above it in the document's table.
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let document = std::fs::read_to_string(document).unwrap();
    let section = document.split("travels through a promote").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut above: BTreeSet<&str> = ["path", "refused", "parallel", "options"].into();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let names = row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2);
        for name in names.map(|name| name.trim_end_matches('/')) {
            for other in rooms.get(name).into_iter().flatten() {
                assert!(above.contains(other.as_str()), "{name} knows {other}");
            }
            above.insert(name);
        }
    }
    let missing: Vec<_> = rooms
        .keys()
        .filter(|room| !above.contains(room.as_str()))
        .collect();
    assert!(missing.is_empty(), "not in the table: {missing:?}");
}

#[test]
fn the_search_for_circles_finds_one() {
    let of = |edges: &[(&str, &[&str])]| {
        let edges = edges.iter().map(|(from, to)| {
            let to = to.iter().map(|to| (*to).to_owned()).collect();
            ((*from).to_owned(), to)
        });
        circle(edges.collect())
    };
    assert!(of(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])]).is_empty());
    let found = of(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]);
    assert_eq!(found, ["a", "b", "c"]);
}
