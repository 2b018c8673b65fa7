//! The README's examples run, its links lead somewhere, and its commands are those
//! that CI runs.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use support::{Ran, lbpayload, noise};

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The lines `$ lbpayload …` of the README, each as its words.
fn examples() -> Vec<Vec<String>> {
    readme()
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

/// A BSP workspace around it, whose overlay has two tags.
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
fn every_example_works() {
    let examples = examples();
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
        let shown = words.join(" ");
        let mut may_exit = vec![0];
        let mut words: Vec<String> = words
            .into_iter()
            .map(|word| match word.as_str() {
                // Disks that a reader has and a test must not touch.
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
            // What this machine's disks hold is not the example's doing.
            may_exit.extend([3, 4]);
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
fn every_link_to_a_file_leads_to_one() {
    let mut links = 0;
    for document in [
        "README.md",
        "CONTRIBUTING.md",
        "ARCHITECTURE.md",
        "SEMANTICS.md",
        "FORMAT.md",
        "SECURITY.md",
    ] {
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        for link in text
            .split("](")
            .skip(1)
            .map(|rest| rest.split(')').next().unwrap())
        {
            if !link.contains("://") {
                links += 1;
                assert!(root().join(link).exists(), "{document} links to {link}");
            }
        }
    }
    assert!(links >= 6, "{links}");
}

#[test]
fn the_two_commands_are_there_and_ci_runs_the_second() {
    for script in ["scripts/demo", "scripts/test", "scripts/setup", ".ci/run"] {
        let path = root().join(script);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert!(mode & 0o111 != 0, "{script} can be run");
        let checked = Command::new("bash").arg("-n").arg(&path).status().unwrap();
        assert!(checked.success(), "{script}");
    }
    let text = readme();
    assert!(text.contains("\n    scripts/demo\n") && text.contains("\n    scripts/test\n"));
    let ci = std::fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(ci.lines().any(|line| line == "scripts/test"));
}
