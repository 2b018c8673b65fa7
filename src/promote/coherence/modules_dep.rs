//! Reads `modules.dep`, and compares it with the modules.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{self, Read};
use std::path::Path;

use super::compression::{Limited, split_suffix};
use super::module_tree::ModuleTree;
use super::report::{Findings, in_rootfs};
use super::staged_image::open_place;
use crate::durable::Tree;

/// The size in bytes of the largest `modules.dep` that is read.
const MAX_TEXT: u64 = 64 << 20;

/// What `modules.dep` lists for each module, by path below the directory of the release.
type Listed<'a> = HashMap<&'a Path, HashSet<&'a Path>>;

/// Compares `modules.dep` with the modules. modprobe finds a module only if it is listed, and
/// loads before it what is listed for it.
pub(super) fn check(rootfs: &Tree, tree: &ModuleTree) -> Findings {
    let mut findings = Findings::default();
    let named = |name: &str| in_rootfs(&tree.dir.join(name));
    for (dir, error) in &tree.unreadable {
        findings.error(in_rootfs(&tree.dir.join(dir)), error);
    }
    let text = match read(rootfs, &tree.place.join("modules.dep")) {
        Ok(text) => text,
        // A kernel without modules needs none.
        Err(e) if e.kind() == io::ErrorKind::NotFound && tree.modules.is_empty() => {
            return findings;
        }
        Err(e) => {
            findings.error(named("modules.dep"), &e);
            return findings;
        }
    };
    // depmod writes this file too, and modprobe reads it.
    if let Err(e) = open_place(rootfs, &tree.place.join("modules.dep.bin")) {
        findings.error(named("modules.dep.bin"), &e);
    }
    let built_in = match read(rootfs, &tree.place.join("modules.builtin")) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => {
            findings.error(named("modules.builtin"), &e);
            return findings;
        }
    };
    let built_in: HashSet<String> = built_in
        .lines()
        .map(|line| module_name(Path::new(line)))
        .collect();
    compare(tree, &parse(&text, &tree.dir), &built_in, &mut findings);
    findings
}

fn compare(
    tree: &ModuleTree,
    listed: &Listed<'_>,
    built_in: &HashSet<String>,
    findings: &mut Findings,
) {
    let path_of = |path: &Path| in_rootfs(&tree.dir.join(path));
    let mut by_name: HashMap<String, Vec<&Path>> = HashMap::new();
    for module in &tree.modules {
        let name = module_name(&module.path);
        by_name.entry(name).or_default().push(&module.path);
    }
    for module in &tree.modules {
        let Some(listed) = listed.get(&*module.path) else {
            findings.failed(path_of(&module.path), "it is not in modules.dep");
            continue;
        };
        let info = match &module.info {
            Ok(info) => info,
            Err(e) => {
                findings.error(path_of(&module.path), e);
                continue;
            }
        };
        for name in info.depends() {
            let name = name.replace('-', "_");
            match by_name.get(&name) {
                Some(paths) if paths.iter().any(|path| listed.contains(path)) => {}
                None if built_in.contains(&name) => {}
                Some(_) => findings.failed(
                    path_of(&module.path),
                    format!("it needs {name}, and modules.dep does not say so"),
                ),
                None => findings.failed(
                    path_of(&module.path),
                    format!("it needs {name}, which is not there"),
                ),
            }
        }
    }
    let there: HashSet<&Path> = tree.modules.iter().map(|m| &*m.path).collect();
    let gone: BTreeSet<&Path> = listed
        .keys()
        .copied()
        .filter(|path| !there.contains(path))
        // What is in a directory that cannot be read may be there.
        .filter(|path| !tree.unreadable.iter().any(|(dir, _)| path.starts_with(dir)))
        .collect();
    for path in gone {
        findings.failed(path_of(path), "it is in modules.dep, and not there");
    }
}

/// Parses the lines, each with a module, a colon, and what it depends on. Paths start from the
/// directory of the release, or are absolute.
fn parse<'a>(text: &'a str, dir: &Path) -> Listed<'a> {
    let path = |word: &'a str| {
        let path = Path::new(word);
        let below = path.strip_prefix("/").unwrap_or(path);
        let below = below.strip_prefix("usr").unwrap_or(below);
        below.strip_prefix(dir).unwrap_or(path)
    };
    let line = |line: &'a str| {
        let (module, depends) = line.split_once(':')?;
        Some((path(module), depends.split_whitespace().map(path).collect()))
    };
    text.lines().filter_map(line).collect()
}

/// Returns the name of the module in a file. Modules have the same name with `-` and `_`.
fn module_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (plain, _) = split_suffix(&name);
    plain.strip_suffix(".ko").unwrap_or(plain).replace('-', "_")
}

fn read(rootfs: &Tree, place: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let file = open_place(rootfs, place)?;
    Limited::new(file, MAX_TEXT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promote::coherence::module::Modinfo;
    use crate::promote::coherence::module_tree::Module;

    fn compared(modules: &[(&str, &str)], dep: &str, built_in: &[&str]) -> Vec<String> {
        let module = |(path, depends): &(&str, &str)| Module {
            path: path.into(),
            info: Ok(Modinfo {
                fields: vec![("depends".into(), (*depends).into())],
            }),
        };
        let tree = ModuleTree {
            dir: "lib/modules/6".into(),
            place: "usr/lib/modules/6".into(),
            modules: modules.iter().map(module).collect(),
            unreadable: vec![("secret".into(), io::ErrorKind::PermissionDenied.into())],
        };
        let built_in = built_in.iter().map(|name| (*name).to_owned()).collect();
        let mut findings = Findings::default();
        compare(&tree, &parse(dep, &tree.dir), &built_in, &mut findings);
        let check = findings.check("modules-dep", |_, _| String::new());
        let line = |problem: crate::promote::coherence::Problem| {
            format!("{}: {}", problem.path.display(), problem.message)
        };
        check.problems.into_iter().map(line).collect()
    }

    #[test]
    fn modules_and_what_they_depend_on_must_be_listed() {
        let modules = [("kernel/a-b.ko.zst", ""), ("updates/c.ko", "a_b,d")];
        let right = "kernel/a-b.ko.zst:\nupdates/c.ko: kernel/a-b.ko.zst\n";
        assert!(compared(&modules, right, &["d"]).is_empty());
        let absolute = "/lib/modules/6/kernel/a-b.ko.zst:\n/usr/lib/modules/6/updates/c.ko: \
                        /lib/modules/6/kernel/a-b.ko.zst\n";
        assert!(compared(&modules, absolute, &["d"]).is_empty());
        assert_eq!(
            compared(&modules, "updates/c.ko:\ngone.ko:\nsecret/x.ko:\n", &[]),
            [
                "rootfs/lib/modules/6/kernel/a-b.ko.zst: it is not in modules.dep",
                "rootfs/lib/modules/6/updates/c.ko: it needs a_b, and modules.dep does not say so",
                "rootfs/lib/modules/6/updates/c.ko: it needs d, which is not there",
                "rootfs/lib/modules/6/gone.ko: it is in modules.dep, and not there",
            ]
        );
        assert_eq!(compared(&modules, "", &["d"]).len(), 2);
    }
}
