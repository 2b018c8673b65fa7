//! As an ordinary user: with fusermount3, and within what /etc/fuse.conf allows.
//!
//! Each test runs a script in a mount namespace of its own. There every user may open
//! /dev/fuse (as udev sets it up), and /etc/fuse.conf belongs to the test. The
//! machine is not changed, and no user is created.

use std::path::Path;
use std::process::Command;

use crate::fixture::{Fixture, cannot_mount, sample, until, users_of};
use crate::support::{Lacks, Ran, skip};

const PREAMBLE: &str = r#"
set -eu
dir=$1 lb=$1/ns/lbpayload conf=$3
image=$dir/external.img point=$dir/point
trap 'while umount -l "$point" 2>/dev/null; do :; done' EXIT
mkdir "$dir/ns"
chmod 755 "$dir"
chown nobody "$point"
mount -t tmpfs -o mode=755 none "$dir/ns"
touch "$lb"
mount --bind "$2" "$lb"
mknod "$dir/ns/fuse" c 10 229
chmod 666 "$dir/ns/fuse"
mount --bind "$dir/ns/fuse" /dev/fuse
echo "$conf" >"$dir/ns/conf"
mount --bind "$dir/ns/conf" /etc/fuse.conf
as() {
    uid=$(id -u "$1") gid=$(id -g "$1")
    shift
    setpriv --reuid="$uid" --regid="$gid" --clear-groups "$@"
}
mounted() { grep -c " $point " /proc/mounts || true; }
await() { while [ "$(mounted)" != "$1" ]; do sleep 0.02; done; }
server() { as nobody getfattr --absolute-names --only-values -n user.lbpayload.pid "$point"; }
"#;

pub(crate) fn unavailable() -> bool {
    if cannot_mount() {
        return true;
    }
    let programs = [
        "/usr/bin/fusermount3",
        "/etc/fuse.conf",
        "/usr/bin/setpriv",
        "/usr/bin/getfattr",
    ];
    let missing = programs.iter().find(|path| !Path::new(path).exists());
    if let Some(missing) = missing {
        let reason = format!("mounts of ordinary users: no {missing}");
        skip(Lacks::Setup, &reason);
    }
    missing.is_some()
}

/// Runs `script`, which must exit with 0, and returns its output.
#[track_caller]
pub(crate) fn script(fixture: &Fixture, conf: &str, script: &str) -> String {
    let mut command = Command::new("timeout");
    command.args([
        "120",
        "unshare",
        "-m",
        "--propagation",
        "private",
        "sh",
        "-c",
    ]);
    command.arg(format!("{PREAMBLE}\n{script}")).arg("sh");
    command
        .arg(fixture.dir())
        .arg(env!("CARGO_BIN_EXE_lbpayload"));
    let ran = Ran::of(command.arg(conf).env_remove("RUST_LOG")).exits(0);
    let dir = fixture.dir();
    until("the servers end", || users_of(dir).is_empty());
    ran.stdout
}

#[test]
fn user_can_mount_read_and_unmount_and_other_users_have_no_access() {
    if unavailable() {
        return;
    }
    let fixture = Fixture::new(&sample());
    let out = script(
        &fixture,
        "",
        r#"
        as nobody "$lb" mount "$image" "$point"
        as nobody cat "$point/z-first"; echo
        as nobody stat -c '%u %g %a' "$point/z-first"
        grep " $point " /proc/mounts | cut -d' ' -f3,4
        as daemon cat "$point/z-first" 2>/dev/null || echo denied
        cat "$point/z-first" 2>/dev/null || echo denied
        as nobody touch "$point/z-first" 2>&1 | grep -o 'Read-only file system'
        "$lb" unmount "$point" 2>&1 | grep -o 'Permission denied'
        as daemon "$lb" unmount "$point" 2>/dev/null || echo "refused $?"
        pid=$(server)
        as nobody "$lb" unmount "$point"
        mounted
        ! grep -q "^State:.[^Z]" "/proc/$pid/status" 2>/dev/null
        "#,
    );
    let expected = "hello\n65534 65534 444\n\
        fuse.lbpayload ro,nosuid,nodev,relatime,user_id=65534,group_id=65534,default_permissions\n\
        denied\ndenied\nRead-only file system\n\
        Permission denied\nrefused 1\n0\n";
    assert_eq!(out, expected);
}

#[test]
fn user_without_access_to_dev_fuse_is_told_its_permissions() {
    if unavailable() {
        return;
    }
    let fixture = Fixture::new(&sample());
    let out = script(
        &fixture,
        "",
        r#"
        chmod 600 "$dir/ns/fuse"
        as nobody "$lb" mount "$image" "$point" 2>&1 || echo "refused $?"
        "#,
    );
    assert!(out.contains("`/dev/fuse`") && out.contains("0666"), "{out}");
    assert!(out.ends_with("refused 1\n"), "{out}");
}

#[test]
fn allow_other_is_refused_unless_fuse_conf_allows_it() {
    if unavailable() {
        return;
    }
    for options in ["allow_other", "allow_root"] {
        let fixture = Fixture::new(&sample());
        let attempt = r#"
            as nobody "$lb" mount -o OPTIONS "$image" "$point" 2>"$dir/error" || echo "refused $?"
            cat "$dir/error"
            mounted
        "#;
        let out = script(&fixture, "", &attempt.replace("OPTIONS", options));
        assert!(out.starts_with("refused 1\nlbpayload: error: "), "{out}");
        assert!(out.contains("user_allow_other"), "{out}");
        assert!(out.contains("lbpayload: help: "), "{out}");
        assert!(out.ends_with("\n0\n"), "{out}");
    }
}

#[test]
fn allow_other_and_allow_root_work_when_fuse_conf_permits_them() {
    if unavailable() {
        return;
    }
    for (options, daemon) in [
        ("allow_other", "hello"),
        ("allow_other,umask=077", "denied"),
        ("allow_root", "denied"),
    ] {
        let fixture = Fixture::new(&sample());
        let out = script(
            &fixture,
            "user_allow_other",
            &r#"
            as nobody "$lb" mount -o OPTIONS "$image" "$point"
            as nobody cat "$point/z-first"; echo
            as daemon cat "$point/z-first" 2>/dev/null || printf denied; echo
            cat "$point/z-first"; echo
            "$lb" unmount "$point"
            mounted
            "#
            .replace("OPTIONS", options),
        );
        assert_eq!(out, format!("hello\n{daemon}\nhello\n0\n"), "{options}");
    }
}

#[test]
fn auto_unmount_works_for_a_user_without_allow_other() {
    if unavailable() {
        return;
    }
    let fixture = Fixture::new(&sample());
    let out = script(
        &fixture,
        "",
        r#"
        as nobody "$lb" mount -o auto_unmount "$image" "$point"
        as nobody ls "$point" >/dev/null
        kill -9 "$(server)"
        await 0
        as nobody "$lb" mount -o auto_unmount "$image" "$point"
        as nobody cat "$point/z-first"
        as nobody "$lb" unmount "$point"
        mounted
        "#,
    );
    assert_eq!(out, "hello0\n");
}

#[test]
fn user_can_unmount_a_dead_mount_but_not_a_busy_one() {
    if unavailable() {
        return;
    }
    let fixture = Fixture::new(&sample());
    let out = script(
        &fixture,
        "",
        r#"
        as nobody "$lb" mount "$image" "$point"
        as nobody ls "$point" >/dev/null
        kill -9 "$(server)"
        as nobody "$lb" mount "$image" "$point" 2>&1 | grep -o "lbpayload unmount" | head -n 1
        as nobody "$lb" unmount "$point"
        mounted
        as nobody "$lb" mount "$image" "$point"
        mkdir -m 777 "$dir/free"
        hold='exec 9<"$1/large"; touch "$2/holds"; until [ -e "$2/done" ]; do sleep 0.02; done'
        as nobody sh -c "$hold" sh "$point" "$dir/free" &
        until [ -e "$dir/free/holds" ]; do sleep 0.02; done
        as nobody "$lb" unmount "$point" 2>&1 | grep -o busy | head -n 1
        touch "$dir/free/done"
        wait $!
        as nobody "$lb" unmount "$point"
        mounted
        "#,
    );
    assert_eq!(out, "lbpayload unmount\n0\nbusy\n0\n");
}

#[test]
fn signals_and_timeout_end_the_mount_of_a_user() {
    if unavailable() {
        return;
    }
    let fixture = Fixture::new(&sample());
    let out = script(
        &fixture,
        "",
        r#"
        for signal in TERM INT HUP; do
            as nobody "$lb" mount "$image" "$point"
            pid=$(server)
            kill "-$signal" "$pid"
            await 0
            while [ -e "/proc/$pid" ]; do sleep 0.02; done
        done
        as nobody "$lb" mount -o timeout=1 "$image" "$point"
        await 0
        as nobody "$lb" mount "$image" "$point"
        as nobody fusermount3 -u "$point"
        mounted
        "#,
    );
    assert_eq!(out, "0\n");
}

#[test]
fn mount_point_of_a_user_is_created_and_removed_and_a_foreign_one_refused() {
    if unavailable() {
        return;
    }
    let fixture = Fixture::new(&sample());
    let out = script(
        &fixture,
        "",
        r#"
        under=$point/made
        as nobody "$lb" mount "$image" "$under"
        as nobody cat "$under/z-first"; echo
        as nobody "$lb" unmount "$under"
        ls "$point"
        chown root "$point"
        as nobody "$lb" mount "$image" "$point" 2>&1 | grep -c ' error: .*fusermount3: '
        as nobody "$lb" mount "$image" "$under" 2>&1 | grep -c " error: .*\`$under\`"
        mounted
        "#,
    );
    assert_eq!(out, "hello\n1\n1\n0\n");
}

#[test]
fn fsname_of_a_user_cannot_inject_options() {
    if unavailable() {
        return;
    }
    let fixture = Fixture::new(&sample());
    let out = script(
        &fixture,
        "user_allow_other",
        r#"
        as nobody "$lb" mount -o 'fsname=a\,allow_other\,b\\c d' "$image" "$point"
        grep " $point " /proc/mounts | cut -d' ' -f1,4
        as nobody "$lb" unmount "$point"
        "#,
    );
    let expected = "a,allow_other,b\\134c\\040d \
        ro,nosuid,nodev,relatime,user_id=65534,group_id=65534,default_permissions\n";
    assert_eq!(out, expected);
}

#[test]
fn missing_fusermount3_is_reported_with_the_package_to_install() {
    if unavailable() {
        return;
    }
    let fixture = Fixture::new(&sample());
    let out = script(
        &fixture,
        "",
        r#"
        as nobody env FUSERMOUNT_PATH=/nonexistent "$lb" mount "$image" "$point" 2>&1 | grep -o 'package fuse3'
        mounted
        as nobody "$lb" mount "$image" "$point"
        as nobody env PATH=/nonexistent "$lb" unmount "$point" 2>&1 | grep -o 'package fuse3'
        "#,
    );
    assert_eq!(out, "package fuse3\n0\npackage fuse3\n");
}

/// If the server dies before it has mounted, whatever is on the mount point belongs
/// to another program.
#[test]
fn server_that_dies_before_mounting_unmounts_nothing() {
    if unavailable() {
        return;
    }
    let fixture = Fixture::new(&sample());
    let out = script(
        &fixture,
        "",
        r#"
        cat >"$dir/ns/fusermount3" <<'END'
#!/bin/sh
echo "$@" >>"$ASKED"
case $1 in -u*) ;; *) kill -9 $PPID ;; esac
END
        chmod 755 "$dir/ns/fusermount3"
        touch "$dir/asked"
        chmod 666 "$dir/asked"
        mount --bind "$dir/ns/fusermount3" "$(command -v fusermount3)"
        ASKED=$dir/asked as nobody "$lb" mount "$image" "$point" 2>&1 && exit 1
        wc -l <"$dir/asked"
        grep -c -e '^-u' "$dir/asked" || true
        "#,
    );
    assert!(out.contains("the server died"), "{out}");
    // fusermount3 was called to mount, and never to unmount.
    assert!(out.ends_with("\n1\n0\n"), "{out}");
}
