//! The code has the structure that ARCHITECTURE.md describes: rooms use only rooms
//! below them, unsafe code is only in the files named there, and every room is
//! listed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The rooms that each room may use. `error`, `progress` and `sys` use no other
/// room, and all except `format` may use them.
const ROOMS: &[(&str, &[&str])] = &[
    ("format", &[]),
    ("error", &[]),
    ("progress", &[]),
    ("sys", &[]),
    ("sandbox", &[]),
    ("sync", &[]),
    ("block", &["error", "progress", "sys", "sync"]),
    ("payload", &["error", "progress", "sys", "format", "block"]),
    (
        "protection",
        &["error", "progress", "sys", "format", "block"],
    ),
    ("durable", &["error", "progress", "sys", "block"]),
    (
        "protect",
        &[
            "error",
            "progress",
            "sys",
            "format",
            "block",
            "payload",
            "protection",
            "durable",
        ],
    ),
    (
        "probe",
        &["error", "progress", "sys", "format", "block", "payload"],
    ),
    (
        "pack",
        &[
            "error",
            "progress",
            "sys",
            "format",
            "block",
            "payload",
            "durable",
            "protection",
        ],
    ),
    (
        "verify",
        &["error", "progress", "sys", "format", "block", "payload"],
    ),
    (
        "diff",
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
        &[
            "error", "progress", "sys", "sync", "sandbox", "format", "block", "payload",
        ],
    ),
    ("net", &["error", "progress", "sys", "block"]),
    (
        "fetch",
        &[
            "error", "progress", "sys", "format", "payload", "durable", "net",
        ],
    ),
    (
        "cli",
        &[
            "error",
            "progress",
            "sys",
            "sandbox",
            "format",
            "block",
            "payload",
            "durable",
            "probe",
            "pack",
            "verify",
            "diff",
            "import",
            "mount",
            "promote",
            "protection",
            "protect",
            "net",
            "fetch",
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
    assert!(out.len() > 30, "found too few source files");
    out.into_iter()
        .map(|(p, t)| (p.strip_prefix(&root).unwrap().to_path_buf(), t))
        .collect()
}

/// The top-level module of a file. `None` for lib.rs and main.rs, which only combine
/// the modules.
fn room(path: &Path) -> Option<String> {
    let first = path.components().next()?.as_os_str().to_str()?;
    match first.strip_suffix(".rs").unwrap_or(first) {
        "lib" | "main" => None,
        room => Some(room.to_owned()),
    }
}

/// The rooms that a text names as `crate::ROOM`, in `use` groups too. Comments do
/// not count.
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
    // The names that lib.rs re-exports at the top belong to the error room.
    for again in ["Error", "Kind", "Result"] {
        if rooms.remove(again) {
            rooms.insert("error".into());
        }
    }
    rooms
}

#[test]
fn rooms_use_only_rooms_below_them() {
    let allowed: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    let mut bad = Vec::new();
    let mut arrows = 0;
    for (path, text) in sources() {
        let Some(room) = room(&path) else { continue };
        let Some(may) = allowed.get(room.as_str()) else {
            bad.push(format!("{}: the room {room} is not listed", path.display()));
            continue;
        };
        // A module's own tests may use anything.
        for other in known(text.split("#[cfg(test)]").next().unwrap_or("")) {
            arrows += 1;
            if other != room && !may.contains(&other.as_str()) {
                bad.push(format!("{}: {room} must not use {other}", path.display()));
            }
        }
    }
    assert!(arrows > 50, "found too few dependencies: {arrows}");
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn dependency_search_finds_all_forms_of_use() {
    let text = "use crate::block::X;\nuse crate::{format::Y, payload};\nlet z = crate::cli::main();\n// crate::ghost\nuse crate::Result;";
    let rooms: Vec<_> = known(text).into_iter().collect();
    assert_eq!(rooms, ["block", "cli", "error", "format", "payload"]);
}

#[test]
fn unsafe_code_is_only_in_files_named_in_architecture_md() {
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
        .expect("no section on unsafe");
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
fn architecture_md_lists_every_room_and_its_dependencies() {
    let document =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md"))
            .unwrap();
    for (room, knows) in ROOMS {
        let row = document
            .lines()
            .find(|line| {
                // A directory or a file: `room/` or `room`.
                let rest = line.strip_prefix(&format!("| `{room}"));
                rest.is_some_and(|rest| rest.starts_with(['/', '`']))
            })
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

/// The files of the library: module path, and code without comments and tests.
type Modules = BTreeMap<Vec<String>, String>;

fn modules() -> Modules {
    let mut modules = Modules::new();
    for (path, text) in sources() {
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or("");
        let lines = code
            .lines()
            .map(|line| line.split("//").next().unwrap_or(""));
        let code = lines.collect::<Vec<_>>().join("\n");
        let path = path.with_extension("");
        let mut module: Vec<String> = path.iter().map(|p| p.to_str().unwrap().into()).collect();
        if module.last().is_some_and(|last| last == "mod") {
            module.pop();
        }
        // These files only combine the modules.
        if !["lib", "main"].contains(&&*module[0]) {
            modules.insert(module, code);
        }
    }
    modules
}

/// The paths of a use tree, such as `a::{b, c::d}`.
fn expand(prefix: &str, tree: &str, out: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    let Some((before, group)) = tree.strip_suffix('}').and_then(|t| t.split_once('{')) else {
        let path = format!("{prefix}{}", tree.split(" as ").next().unwrap_or(""));
        out.push(path.split("::").map(|p| p.trim().to_owned()).collect());
        return;
    };
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !group[start..at].trim().is_empty() {
                    expand(&format!("{prefix}{before}"), &group[start..at], out);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The names of the library that a file uses, in `use` and in paths in the code.
fn named_paths(code: &str, reexported: bool) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for statement in code.split(';') {
        let Some(at) = statement.rfind("use ") else {
            continue;
        };
        let before = statement[..at].trim_end();
        let is_use = before.is_empty() || before.ends_with(['}', ']', ')', '{', '\n']);
        let is_pub = before.ends_with("pub") || before.ends_with(')');
        if is_pub || (is_use && !reexported) {
            expand("", &statement[at + 4..], &mut paths);
        }
    }
    if !reexported {
        for start in ["crate::", "super::"] {
            for (at, _) in code.match_indices(start) {
                let rest = &code[at..];
                let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
                let path = rest[..end.unwrap_or(rest.len())].split("::");
                paths.push(path.filter(|p| !p.is_empty()).map(str::to_owned).collect());
            }
        }
    }
    paths
}

/// The file that a path used in `module` leads to, including re-exports.
fn file_of(
    modules: &Modules,
    module: &[String],
    path: &[String],
    depth: u32,
) -> Option<Vec<String>> {
    let mut at = module.to_vec();
    let mut rest = path.iter().peekable();
    match rest.peek()?.as_str() {
        "crate" => {
            at.clear();
            rest.next();
        }
        "self" => drop(rest.next()),
        "super" => {}
        // An external crate, unless a submodule has the same name.
        first => {
            at.push(first.to_owned());
            modules.get(&at)?;
            at.pop();
        }
    }
    while rest.next_if(|part| *part == "super").is_some() {
        at.pop();
    }
    let mut item = None;
    for part in rest {
        at.push(part.clone());
        if !modules.contains_key(&at) {
            item = at.pop();
            break;
        }
    }
    let code = modules.get(&at)?;
    let again = named_paths(code, true);
    let again = again.iter().find(|path| path.last() == item.as_ref());
    match again {
        Some(again) if depth < 5 => file_of(modules, &at, again, depth + 1).or(Some(at)),
        _ => Some(at),
    }
}

/// The files that each file uses.
fn arrows() -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let modules = modules();
    let mut knows: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for (module, code) in &modules {
        for path in named_paths(code, false) {
            if let Some(other) = file_of(&modules, module, &path, 0) {
                if other != *module {
                    knows.entry(module.clone()).or_default().insert(other);
                }
            }
        }
    }
    knows
}

#[test]
fn there_are_no_circular_dependencies_between_files() {
    let knows = arrows();
    let arrows: usize = knows.values().map(BTreeSet::len).sum();
    assert!(arrows > 300, "found too few dependencies: {arrows}");
    let mut circles = Vec::new();
    for (module, firsts) in &knows {
        let mut seen = BTreeSet::new();
        let mut todo: Vec<_> = firsts.iter().collect();
        while let Some(next) = todo.pop() {
            if next == module {
                circles.push(module.join("/"));
                break;
            }
            if seen.insert(next) {
                todo.extend(knows.get(next).into_iter().flatten());
            }
        }
    }
    assert!(
        circles.is_empty(),
        "circular dependencies: {}",
        circles.join(", ")
    );
}

#[test]
fn promote_submodules_use_only_those_above_them_in_the_table() {
    let document =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md"))
            .unwrap();
    let section = document.split("travels through a promote").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.split('|').nth(1).unwrap());
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let leaves = ["path", "refused", "parallel", "options"];
    let order: Vec<&str> = leaves
        .into_iter()
        .chain(names.map(|name| name.trim_end_matches('/')))
        .collect();
    // The module file itself is the last row, `mod`.
    let place = |module: &[String]| {
        let name = module.get(1).map_or("mod", String::as_str);
        let place = order.iter().position(|other| *other == name);
        place.unwrap_or_else(|| panic!("{name} is not in the table"))
    };
    let mut found = 0;
    for (module, others) in arrows().iter().filter(|(m, _)| m[0] == "promote") {
        for other in others.iter().filter(|other| other[0] == "promote") {
            let (here, there) = (place(module), place(other));
            assert!(here >= there, "{module:?} uses {other:?}");
            let is_leaf = here < leaves.len() && here != there;
            assert!(!is_leaf, "{module:?} uses {other:?}");
            found += 1;
        }
    }
    assert!(found > 80, "found too few dependencies: {found}");
}
