//! The examples of the README and of docs/promote.md run, and the commands are those that CI runs.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Ran, lbpayload, noise};

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The `$ lbpayload …` lines of a document, split into words.
fn examples(document: &str) -> Vec<Vec<String>> {
    document
        .lines()
        .filter_map(|line| line.strip_prefix("$ lbpayload "))
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect()
}

/// A directory as the examples expect it: archives, and a live-bootstrap checkout.
fn stage(dir: &Path) {
    let distfiles = dir.join("distfiles");
    std::fs::create_dir(&distfiles).unwrap();
    let archive = noise(1, 100_000);
    std::fs::write(distfiles.join("gcc.tar.xz"), &archive).unwrap();
    std::fs::write(distfiles.join("empty"), "").unwrap();
    let checkout = dir.join("live-bootstrap");
    std::fs::create_dir_all(checkout.join("steps/gcc")).unwrap();
    std::fs::create_dir(checkout.join("distfiles")).unwrap();
    std::fs::write(checkout.join("distfiles/gcc.tar.xz"), &archive).unwrap();
    std::fs::write(
        checkout.join("steps/manifest"),
        "improve: import_payload\nbuild: gcc\n",
    )
    .unwrap();
    let source = format!("f https://x/gcc.tar.xz {}\n", support::sha256sum(&archive));
    std::fs::write(checkout.join("steps/gcc/sources"), source).unwrap();
    stage_workspace(dir);
}

/// A BSP workspace around it whose overlay has two tags.
fn stage_workspace(dir: &Path) {
    let script = "mkdir -p target-platform Source/Linux_for_Tegra/bootloader Image/Linux_for_Tegra
        echo 'active: t.yaml' > target-platform/active_target.yml
        printf 'bsp_image: {version: x}\nsource: {}\n' > target-platform/t.yaml
        cd Source/Linux_for_Tegra
        git() { command git -c user.name=d -c user.email=d@example.com \"$@\"; }
        git init -q
        for tag in v1.1 v1.2; do
            echo $tag > bootloader/board.conf
            git add -A && git commit -qm $tag && git tag $tag
        done";
    support::check(Command::new("sh").args(["-ec", script]).current_dir(dir));
}

#[test]
fn every_readme_example_runs() {
    let examples = examples(&readme());
    assert!(examples.len() >= 7, "{examples:?}");
    let dir = tempfile::tempdir().unwrap();
    stage(dir.path());
    let fuse = std::fs::File::open("/dev/fuse").is_ok();
    for words in examples {
        if !fuse && words[0].ends_with("mount") {
            let reason = format!("no /dev/fuse: {}", words.join(" "));
            support::skip(support::Lacks::Setup, &reason);
            continue;
        }
        if !cfg!(feature = "net") && words[0] == "fetch" {
            // A static build has no such command.
            continue;
        }
        let shown = words.join(" ");
        let mut may_exit = vec![0];
        let mut words: Vec<String> = words
            .into_iter()
            .map(|word| match word.as_str() {
                // Disks that a reader has and that a test must not touch.
                "/dev/sdX" => "disk.img".into(),
                "/dev/sdb" => "external.img".into(),
                "/external/distfiles" => "arrived".into(),
                "/mnt" => "mnt".into(),
                _ => word,
            })
            .collect();
        if words == ["import"] {
            words.push("--dry-run".into());
        }
        if words[0] == "probe" || (words[0] == "import" && words.len() == 2) {
            // The result depends on the disks of this machine and not on the example.
            may_exit.extend([3, 4]);
        }
        if words[0] == "diff" || words.starts_with(&["promote".into(), "verify".into()]) {
            may_exit.push(1);
        }
        let ran = Ran::of(lbpayload().args(&words).current_dir(dir.path()));
        assert!(
            may_exit.contains(&ran.status.unwrap()),
            "{shown}: {}",
            ran.stderr
        );
    }
    assert!(dir.path().join("arrived/gcc.tar.xz").exists());
}

#[test]
fn every_example_of_the_page_on_promote_runs() {
    let page = std::fs::read_to_string(root().join("docs/promote.md")).unwrap();
    let examples = examples(&page);
    assert!(examples.len() >= 10, "{examples:?}");
    let dir = tempfile::tempdir().unwrap();
    stage_workspace(dir.path());
    for words in examples {
        let shown = words.join(" ");
        let ran = Ran::of(lbpayload().args(&words).current_dir(dir.path()));
        assert_eq!(ran.status, Some(0), "{shown}: {}", ran.stderr);
    }
}

/// A copy of the scripts, with a program that builds quickly.
fn scratch() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    // The path contains characters that cargo escapes in its JSON.
    let copy = dir.path().join("above").join("a \"copy\" \\ of it");
    std::fs::create_dir_all(copy.join("src")).unwrap();
    std::fs::create_dir(dir.path().join("cargo-home")).unwrap();
    support::check(
        Command::new("cp")
            .arg("-r")
            .arg(root().join("scripts"))
            .arg(&copy),
    );
    let manifest = "[package]\nname = \"lbpayload\"\nversion = \"0.1.0\"\nedition = \"2021\"\n";
    std::fs::write(copy.join("Cargo.toml"), manifest).unwrap();
    std::fs::write(copy.join("src/main.rs"), "fn main() {}\n").unwrap();
    dir
}

#[test]
fn scripts_find_the_built_program_in_any_target_directory() {
    let config = |text: &str, at: &Path| {
        std::fs::create_dir_all(at).unwrap();
        std::fs::write(at.join("config.toml"), text).unwrap();
    };
    for case in ["nothing", "environment", "above", "home", "build-dir"] {
        let dir = scratch();
        let copy = dir.path().join("above/a \"copy\" \\ of it");
        let elsewhere = dir.path().join("elsewhere");
        let home = dir.path().join("cargo-home");
        let in_text = elsewhere.to_str().unwrap();
        let target_dir = format!("[build]\ntarget-dir = {in_text:?}\n");
        let mut expected = elsewhere.clone();
        let mut set = None;
        match case {
            "environment" => set = Some(("CARGO_TARGET_DIR", in_text)),
            "above" => config(&target_dir, &dir.path().join("above/.cargo")),
            "home" => config(&target_dir, &home),
            "build-dir" => {
                config(&target_dir.replace("target-dir", "build-dir"), &home);
                expected = copy.join("target");
            }
            _ => expected = copy.join("target"),
        }
        let built = |args: &[&str]| {
            let mut command = Command::new(copy.join("scripts/built"));
            for name in [
                "CARGO_TARGET_DIR",
                "CARGO_BUILD_BUILD_DIR",
                "CARGO_BUILD_TARGET",
                "RUSTFLAGS",
            ] {
                command.env_remove(name);
            }
            command.env("CARGO_HOME", &home).envs(set).args(args);
            PathBuf::from(support::check(&mut command).trim_end())
        };
        assert_eq!(built(&[]), expected, "{case}");
        assert_eq!(
            built(&["--release"]),
            expected.join("release/lbpayload"),
            "{case}"
        );
        assert!(expected.join("release/lbpayload").is_file(), "{case}");
    }
}

#[test]
fn static_build_works_with_a_cargo_too_old_for_the_manifest() {
    let dir = scratch();
    let copy = dir.path().join("above/a \"copy\" \\ of it");
    // The cargo of Debian 12 is too old for this package and fails.
    for cargo in ["no-such-cargo", "false"] {
        let built = |target: Option<&str>| {
            let mut command = Command::new(copy.join("scripts/built"));
            command.env_remove("CARGO_TARGET_DIR").env("CARGO", cargo);
            command.envs(target.map(|dir| ("CARGO_TARGET_DIR", dir)));
            PathBuf::from(support::check(&mut command).trim_end())
        };
        assert_eq!(built(None), copy.join("target"), "{cargo}");
        assert_eq!(built(Some("/x")), Path::new("/x"), "{cargo}");
    }
}

#[test]
fn ci_runs_the_test_command_of_the_readme() {
    for script in ["scripts/demo", "scripts/test", "scripts/setup", ".ci/run"] {
        let path = root().join(script);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert!(mode & 0o111 != 0, "{script} is not executable");
        let checked = Command::new("bash").arg("-n").arg(&path).status().unwrap();
        assert!(checked.success(), "{script}");
    }
    let text = readme();
    assert!(text.contains("\n    scripts/demo\n") && text.contains("\n    scripts/test\n"));
    let ci = std::fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(ci.lines().any(|line| line == "scripts/test"));
}
