//! The line of /etc/fstab that lets an ordinary user mount a payload, with a real user, the
//! setuid mount(8), umount(8) and fusermount3, and Debian's /etc/fuse.conf.

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::fixture::{Fixture, sample, until};
use crate::ordinary_user::{script, unavailable};

/// A user of this machine, removed on drop.
struct User(String);

/// useradd(8) needs a lock and does not wait for it.
static ACCOUNTS: Mutex<()> = Mutex::new(());

fn account(command: &str, args: &[&str]) -> bool {
    let _turn = ACCOUNTS.lock().unwrap_or_else(|e| e.into_inner());
    let ran = Command::new(command).args(args).output().unwrap();
    ran.status.success()
}

impl User {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lbm{}x{number}", std::process::id());
        let args = ["--no-create-home", "--shell", "/bin/sh", &*name];
        // Another test program may hold the lock.
        until("the user is created", || account("useradd", &args));
        Self(name)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        for _ in 0..100 {
            if account("userdel", &[&self.0]) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Lets mount(8) find the helper and the line, and nothing of it outside of the test.
const MACHINE: &str = r#"
user=USER
mkdir "$dir/ns/sbin"
ln -s "$lb" "$dir/ns/sbin/mount.fuse.lbpayload"
mount --bind "$dir/ns/sbin" /sbin
echo "$image $point fuse.lbpayload OPTIONS 0 0" >"$dir/ns/fstab"
mount --bind "$dir/ns/fstab" /etc/fstab
chmod 644 "$image"
chown "$user" "$point"
"#;

fn as_user(user: &User, fuse_conf: &str, options: &str, rest: &str) -> String {
    let machine = MACHINE.replace("USER", &user.0).replace("OPTIONS", options);
    let fixture = Fixture::new(&sample());
    script(&fixture, fuse_conf, &format!("{machine}\n{rest}"))
}

#[test]
fn fstab_line_with_user_works_for_an_ordinary_user_with_the_default_fuse_conf() {
    needs_fuse!();
    if unavailable() {
        return;
    }
    let user = User::new();
    let rest = r#"
        as "$user" mount "$point"
        as "$user" cat "$point/z-first"; echo
        [ "$(stat -c %u "$dir/point" 2>/dev/null || as "$user" stat -c %u "$point")" = "$(id -u "$user")" ]
        as daemon ls "$point" 2>/dev/null || echo "others: denied"
        as daemon umount "$point" 2>/dev/null || echo "others: no umount"
        mounted
        as "$user" umount "$point"
        mounted
        as "$user" mount "$point"
        as "$user" "$lb" unmount "$point"
        mounted
    "#;
    let debian = std::fs::read_to_string("/etc/fuse.conf").unwrap();
    let out = as_user(&user, &debian, "noauto,user", rest);
    let expected = "hello\nothers: denied\nothers: no umount\n1\n0\n0\n";
    assert_eq!(out, expected);
}

#[test]
fn fstab_line_with_allow_other_needs_a_line_in_fuse_conf_and_the_error_names_the_file() {
    needs_fuse!();
    if unavailable() {
        return;
    }
    let user = User::new();
    let refused = r#"
        as "$user" mount "$point" 2>&1 || true
        mounted
    "#;
    let out = as_user(&user, "", "noauto,user,allow_other", refused);
    assert!(out.contains("help: "), "{out}");
    let help = out.lines().find(|line| line.contains("help: ")).unwrap();
    assert!(
        help.contains("user_allow_other") && help.contains("/etc/fuse.conf"),
        "{out}"
    );
    assert!(out.ends_with("\n0\n"), "{out}");
    let works = r#"
        as "$user" mount "$point"
        as daemon cat "$point/z-first"; echo
        as "$user" umount "$point"
        mounted
    "#;
    let out = as_user(&user, "user_allow_other", "noauto,user,allow_other", works);
    assert_eq!(out, "hello\n0\n");
}

#[test]
fn mount_point_that_the_user_may_not_write_is_reported_with_the_command_that_helps() {
    needs_fuse!();
    if unavailable() {
        return;
    }
    let user = User::new();
    let rest = r#"
        chown root "$point"
        as "$user" mount "$point" 2>&1 || true
        mounted
    "#;
    let out = as_user(&user, "", "noauto,user", rest);
    assert!(out.contains("help: as root, run `chown USER "), "{out}");
    assert!(out.ends_with("\n0\n"), "{out}");
}
