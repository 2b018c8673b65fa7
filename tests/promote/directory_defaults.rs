//! Default ACLs and setgid of a directory do not change what promote creates in it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use crate::needs_root;
use crate::support::check;
use crate::workspace::Workspace;

/// u::rwx, u:1000:rwx, g::r-x, m::rwx, o::r-x in the kernel's binary form:
/// linux/posix_acl_xattr.h
const ACL: &str = "0x02000000\
    01000700ffffffff\
    02000700e8030000\
    04000500ffffffff\
    10000700ffffffff\
    20000500ffffffff";

#[test]
fn new_files_do_not_inherit_the_default_acl_of_their_directory() {
    needs_root!();
    let it = Workspace::new();
    it.write_overlay("rootfs/opt/new/tool", "tool\n");
    it.commit("a tool");
    for dir in ["", "rootfs"] {
        let name = "system.posix_acl_default";
        check(
            Command::new("setfattr")
                .args(["-n", name, "-v", ACL])
                .arg(it.l4t(dir)),
        );
    }
    it.promote(&[]).exits(0);
    for path in [
        "bootloader/board.conf",
        "rootfs/etc/nvpmodel/nvpmodel.conf",
        "rootfs/opt/new",
        "rootfs/opt/new/tool",
    ] {
        let acls = check(
            Command::new("getfattr")
                .args(["-m", "posix_acl", "--absolute-names"])
                .arg(it.l4t(path)),
        );
        assert_eq!(acls, "", "{path}");
    }
}

#[test]
fn directory_created_in_a_setgid_directory_belongs_to_root() {
    needs_root!();
    let it = Workspace::new();
    it.write_overlay("rootfs/usr/local/new/tool", "tool\n");
    it.commit("a tool");
    // Debian has this directory with setgid and the group staff.
    let local = it.l4t("rootfs/usr/local");
    fs::create_dir(&local).unwrap();
    chown(&local, Some(0), Some(50)).unwrap();
    fs::set_permissions(&local, fs::Permissions::from_mode(0o2775)).unwrap();
    it.promote(&[]).exits(0);
    let meta = local.join("new").metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid()), (0, 0));
    assert_eq!(meta.mode() & 0o7777, 0o755);
}
