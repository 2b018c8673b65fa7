//! Tricks against the helper, which runs as root: whatever the image contains and whatever the
//! other end of the socket sends, nothing outside of rootfs/ changes. SECURITY.md lists them.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::helper::Helper;
use crate::needs_root;
use crate::support::check;
use crate::workspace::Workspace;

/// A workspace whose image is hostile, and the helper for its rootfs.
struct Arena {
    it: Workspace,
    helper: Helper,
    source: fs::File,
    next_slot: u64,
}

impl Arena {
    fn new(prepare: impl Fn(&Workspace)) -> Self {
        let it = Workspace::new();
        it.put("outside/precious", "precious\n");
        it.put("outside/dir/file", "precious too\n");
        prepare(&it);
        let source = it.put("source", "evil\n");
        let helper = Helper::start(&it.l4t("rootfs"));
        let rootfs = fs::File::open(it.l4t("rootfs")).unwrap();
        let greeted = helper.ask("{\"rootfs\":\"x\"}", Some(&rootfs));
        assert_eq!(greeted, "\"Done\"");
        Self {
            it,
            helper,
            source: fs::File::open(source).unwrap(),
            next_slot: 1,
        }
    }

    fn ask(&self, request: &Value) -> String {
        self.helper.ask(&request.to_string(), Some(&self.source))
    }

    fn stage(&mut self, place: &Value, link: Option<&str>) -> u64 {
        let slot = self.next_slot;
        self.next_slot += 1;
        let attributes = json!({"mode": 0o4777, "mtime": [0, 0], "owner": [0, 0]});
        let stage = json!({"slot": slot, "place": place, "attributes": attributes,
            "link": link, "dir_owner": null});
        self.ask(&json!({ "Stage": stage }));
        slot
    }

    fn publish(&self, slot: u64, place: &Value) -> String {
        self.ask(&json!({"Publish": {"slot": slot, "place": place}}))
    }

    /// Tries every request on a place.
    fn try_everything(&mut self, place: &Value) {
        let slot = self.stage(place, None);
        self.publish(slot, place);
        let slot = self.stage(place, Some("/etc/passwd"));
        self.publish(slot, place);
        for request in [
            json!({"Resolve": {"path": place, "follow": true}}),
            json!({"CheckWritable": place}),
            json!({"Look": place}),
            json!({"Compare": {"place": place, "link": null, "executable": true}}),
            json!({"Remove": place}),
            json!({"RemoveDir": place}),
            json!("Flush"),
            json!("FlushNames"),
            json!("Clear"),
        ] {
            self.ask(&request);
        }
    }
}

/// Everything in the workspace but rootfs/: content, mode and owner.
fn outside(it: &Workspace) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![it.path("")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path == it.l4t("rootfs") {
                continue;
            }
            let meta = path.symlink_metadata().unwrap();
            let content = match meta.file_type() {
                kind if kind.is_dir() => {
                    dirs.push(path.clone());
                    String::new()
                }
                kind if kind.is_file() => format!("{:?}", fs::read(&path).unwrap()),
                _ => format!("{:?}", fs::read_link(&path)),
            };
            let what = format!("{:o} {}:{} {content}", meta.mode(), meta.uid(), meta.gid());
            found.insert(path, what);
        }
    }
    found
}

/// Names of places, and what the image has there. The third is the trick in SECURITY.md.
fn places(it: &Workspace) -> Vec<(&'static str, Value)> {
    let out = it.path("outside/precious");
    let out = out.to_str().unwrap();
    let hex: String = "../../../outside/precious"
        .bytes()
        .map(|b| format!("{b:02x}"))
        .collect();
    vec![
        (
            "`..` at the start of a path",
            json!("../../../outside/precious"),
        ),
        (
            "`..` up to the root",
            json!(format!("../../../../../../../../../..{out}")),
        ),
        (
            "`..` in the middle of a path",
            json!("etc/../../../../outside/precious"),
        ),
        (
            "`..` after an empty component",
            json!("etc//..//../../../outside/precious"),
        ),
        ("an absolute path of the host", json!(out)),
        (
            "an absolute path with two slashes",
            json!(format!("/{out}")),
        ),
        (
            "the path in hexadecimal, as for names that are not UTF-8",
            json!({ "hex": hex }),
        ),
        (
            "an absolute symlink in the image",
            json!("etc/absolute/precious"),
        ),
        (
            "a relative symlink that climbs",
            json!("etc/relative/precious"),
        ),
        ("a chain of symlinks", json!("etc/chain/precious")),
        ("a loop of symlinks", json!("etc/loop/precious")),
        (
            "a symlink to the parent, several times",
            json!("etc/up/up/up/../../outside/precious"),
        ),
        ("a symlink as the last component", json!("etc/last")),
        (
            "a symlink to /proc/self/root",
            json!("etc/proc/../outside/precious"),
        ),
        (
            "/proc/self/fd without a symlink",
            json!("proc/self/fd/0/precious"),
        ),
        (
            "a symlink to the directory of the staged files",
            json!("etc/staging/../../x"),
        ),
        ("a hard link to a file outside", json!("etc/hard")),
        ("a FIFO", json!("etc/fifo")),
        ("a device node", json!("etc/node")),
        ("a file in place of a directory", json!("etc/hostname/x")),
        ("a path that names rootfs/ itself", json!("")),
        ("the path `.`", json!(".")),
        ("the path `..`", json!("..")),
        ("the path `/`", json!("/")),
        ("a path that ends in `/..`", json!("etc/..")),
        (
            "a zero byte in a path",
            json!("etc/x\u{0}/../../../outside/precious"),
        ),
        (
            "a path of 100,000 bytes",
            json!("../".repeat(33_000) + "outside/precious"),
        ),
        (
            "a name of 5,000 bytes",
            json!(format!("etc/{}", "x".repeat(5000))),
        ),
        ("a path that is a number", json!(7)),
    ]
}

fn prepare(it: &Workspace) {
    let link = |target: &str, name: &str| symlink(target, it.l4t("rootfs/etc").join(name)).unwrap();
    link(it.path("outside").to_str().unwrap(), "absolute");
    link("../../../../outside", "relative");
    link("chain2", "chain");
    link("chain3/outside", "chain2");
    link("../../../..", "chain3");
    link("loop2", "loop");
    link("loop", "loop2");
    link("..", "up");
    link(it.path("outside/precious").to_str().unwrap(), "last");
    link("/proc/self/root", "proc");
    link("/.lbpayload-staging", "staging");
    fs::hard_link(it.path("outside/precious"), it.l4t("rootfs/etc/hard")).unwrap();
    check(std::process::Command::new("mkfifo").arg(it.l4t("rootfs/etc/fifo")));
    let node = it.l4t("rootfs/etc/node");
    check(
        std::process::Command::new("mknod")
            .arg(node)
            .args(["c", "1", "3"]),
    );
}

/// Plays a trick.
type Play = fn(&mut Arena);

/// Tricks that need more than a path, by their names in SECURITY.md.
const MORE: [(&str, Play); 12] = [
    ("a symlink that the caller has just published", |a| {
        let (evil, below) = (json!("etc/evil"), json!("etc/evil/precious"));
        let target = a.it.path("outside");
        let slot = a.stage(&evil, target.to_str());
        a.publish(slot, &evil);
        assert!(a.it.l4t("rootfs/etc/evil").is_symlink());
        a.try_everything(&below);
    }),
    ("a directory that becomes a symlink after staging", |a| {
        let place = json!("etc/nvpmodel/precious");
        let slot = a.stage(&place, None);
        fs::remove_dir_all(a.it.l4t("rootfs/etc/nvpmodel")).unwrap();
        symlink(a.it.path("outside"), a.it.l4t("rootfs/etc/nvpmodel")).unwrap();
        a.publish(slot, &place);
        a.ask(&json!({ "Remove": place }));
    }),
    ("a symlink in place of the staging directory", |a| {
        let staging = a.it.l4t("rootfs/.lbpayload-staging");
        symlink(a.it.path("outside"), staging).unwrap();
        a.ask(&json!("Clear"));
        a.try_everything(&json!("etc/x"));
    }),
    ("a staging directory full of symlinks", |a| {
        let staging = a.it.l4t("rootfs/.lbpayload-staging");
        fs::create_dir(&staging).unwrap();
        for name in ["1", "2", "new", "x"] {
            symlink(a.it.path("outside/precious"), staging.join(name)).unwrap();
        }
        a.try_everything(&json!("etc/x/y"));
    }),
    ("a slot that was never staged", |a| {
        for slot in [0, 999, u64::MAX] {
            assert!(a.publish(slot, &json!("etc/x")).contains("Failed"));
        }
    }),
    ("a negative slot, or a path as a slot", |a| {
        for slot in [json!(-1), json!("../../../outside/precious"), json!(1.5)] {
            a.ask(&json!({"Publish": {"slot": slot, "place": "etc/x"}}));
        }
    }),
    ("a directory of the host as the source", |a| {
        a.source = fs::File::open(a.it.path("outside")).unwrap();
        a.try_everything(&json!("etc/x"));
        a.try_everything(&json!("precious"));
    }),
    ("a source that is a device, or missing", |a| {
        a.source = fs::File::open("/dev/zero").unwrap();
        a.try_everything(&json!("etc/x"));
        let attributes = json!({"mode": 0o644, "mtime": [0, 0], "owner": null});
        let stage = json!({"slot": 9, "place": "etc/x", "attributes": attributes, "link": null,
            "dir_owner": null});
        let replied = a.helper.ask(&json!({ "Stage": stage }).to_string(), None);
        assert!(replied.contains("Failed"), "{replied}");
    }),
    ("a second greeting with another directory", |a| {
        let other = fs::File::open(a.it.path("outside")).unwrap();
        let replied = a.helper.ask("{\"rootfs\":\"x\"}", Some(&other));
        assert!(replied.contains("Failed"), "{replied}");
        a.try_everything(&json!("precious"));
    }),
    ("several files in one message", |a| {
        let files: Vec<fs::File> = (0..4)
            .map(|_| fs::File::open(a.it.path("outside")).unwrap())
            .collect();
        let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        a.helper.ask_with(b"\"Clear\"", &fds);
        a.try_everything(&json!("precious"));
    }),
    ("messages that are not requests", |a| {
        for text in [
            "",
            "{",
            "null",
            "[]",
            "\"Exit\"",
            "{\"Exec\":\"/bin/sh\"}",
            "\u{0}",
            "{\"Look\":",
            "{\"Look\":\"x\",\"Remove\":\"x\"}",
        ] {
            a.helper.ask_with(text.as_bytes(), &[]);
        }
        a.helper.ask_with(&[0xff; 100], &[]);
    }),
    ("a message longer than the limit", |a| {
        let long = format!("{{\"Look\":\"{}\"}}", "x".repeat(200_000));
        a.helper.ask_with(long.as_bytes(), &[]);
    }),
];

#[test]
fn helper_changes_nothing_outside_of_rootfs_whatever_path_it_is_asked_for() {
    needs_root!();
    let mut arena = Arena::new(prepare);
    let before = outside(&arena.it);
    for (trick, place) in places(&arena.it) {
        arena.try_everything(&place);
        assert_eq!(outside(&arena.it), before, "{trick}");
    }
    // It is still there, and does what it should.
    let place = json!("etc/good");
    let slot = arena.stage(&place, None);
    assert_eq!(arena.publish(slot, &place), "\"Done\"");
    assert_eq!(arena.it.read("rootfs/etc/good"), "evil\n");
}

#[test]
fn helper_changes_nothing_outside_of_rootfs_whatever_it_is_sent() {
    needs_root!();
    for (trick, play) in MORE {
        let mut arena = Arena::new(|_| {});
        let before = outside(&arena.it);
        play(&mut arena);
        assert_eq!(outside(&arena.it), before, "{trick}");
    }
}

#[test]
fn security_md_lists_every_trick() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let listed: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("- trick: "))
        .collect();
    let it = Workspace::empty();
    let places = places(&it).into_iter().map(|(name, _)| name);
    let all: Vec<&str> = places.chain(MORE.iter().map(|(name, _)| *name)).collect();
    assert!(all.len() >= 30);
    assert_eq!(listed, all);
}
