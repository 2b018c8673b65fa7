//! A run whose helper is killed during its work.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::needs_root;
use crate::support::Ran;
use crate::user::User;
use crate::workspace::Workspace;

/// From now on the helper is killed at its `n`th `call`, before the call runs.
fn kill_helper_at(it: &Workspace, call: &str, n: u32) {
    let wrapper = format!(
        "#!/bin/sh\ncase \"$*\" in *promote-helper*)\nshift\n\
         exec /usr/bin/sudo -- strace -qq -o /dev/null -e trace={call} \
         -e inject={call}:signal=KILL:when={n} \"$@\"\nesac\nexec /usr/bin/sudo \"$@\"\n"
    );
    replace_sudo(it, &wrapper);
}

fn replace_sudo(it: &Workspace, wrapper: &str) {
    let path = it.path("bin/sudo");
    fs::write(&path, wrapper).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The image, with the user's number replaced.
fn image(it: &Workspace, user: &User) -> BTreeMap<PathBuf, String> {
    let mut all = it.image_now();
    all.retain(|path, _| !path.ends_with(".lbpayload-staging"));
    for what in all.values_mut() {
        *what = what.replace(&format!("{0}:{0}", user.uid), "the user's");
    }
    all
}

#[test]
fn run_with_a_helper_killed_at_any_call_fails_and_can_be_rolled_back_or_repeated() {
    needs_root!();
    let clean = Workspace::in_memory();
    let user = User::new(&clean, Some("NOPASSWD: ALL"));
    Ran::of(&mut user.promote(&clean)).exits(0);
    let expected = image(&clean, &user);
    let mut kills = 0;
    // The helper replies with sendmsg. By then it has done what the request said.
    for (call, step) in [
        ("sendmsg", 3),
        ("renameat", 1),
        ("fsync", 2),
        ("unlinkat", 1),
    ] {
        for n in (1..).step_by(step) {
            let it = Workspace::in_memory();
            let user = User::new(&it, Some("NOPASSWD: ALL"));
            let before = image(&it, &user);
            kill_helper_at(&it, call, n);
            let ran = Ran::of(&mut user.promote(&it));
            if image(&it, &user) == expected {
                break;
            }
            kills += 1;
            let ran = ran.exits(1);
            let errors = ran.stderr.matches("lbpayload: error: ").count();
            assert_eq!(errors, 1, "{call} {n}: {}", ran.stderr);
            replace_sudo(&it, "#!/bin/sh\nexec /usr/bin/sudo \"$@\"\n");
            // Then there is a record of all changes.
            if image(&it, &user) != before {
                it.action(&["rollback", "0", "--no-initramfs"]).exits(0);
                assert_eq!(image(&it, &user), before, "{call} {n}");
                it.action(&["rollback", "1", "--no-initramfs"]).exits(0);
            }
            Ran::of(&mut user.promote(&it)).exits(0);
            assert_eq!(image(&it, &user), expected, "{call} {n}");
            assert!(!user.is_running());
        }
    }
    assert!(kills > 15, "only {kills} places were tried");
}
