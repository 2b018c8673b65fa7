//! What the journal keeps for going back, and what stands in the way.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::faults::killed_at;
use crate::needs_root;
use crate::workspace::Workspace;

/// Changes a byte of a file, which stays the same file.
fn edit_in_place(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(b"X", 0).unwrap();
}

#[test]
fn an_edit_of_a_file_that_a_cut_off_run_did_not_replace_leaves_its_backup_alone() {
    needs_root!();
    let name = "rootfs/etc/nvpmodel/nvpmodel.conf";
    for n in 1.. {
        let it = Workspace::new();
        assert!(killed_at(&it, "renameat", n), "it never kept anything");
        let kept = it.l4t(".lbpayload/backups/1");
        if !kept.exists() {
            continue;
        }
        assert_eq!(it.read(name), "as shipped\n");
        for backup in fs::read_dir(kept).unwrap() {
            let meta = backup.unwrap().metadata().unwrap();
            assert_eq!((meta.nlink(), meta.mode() & 0o777), (1, 0o600));
        }
        edit_in_place(&it.l4t(name));
        it.action(&["rollback", "0"]).exits(0);
        assert_eq!(it.read(name), "as shipped\n");
        break;
    }
}

#[test]
fn a_backup_that_is_not_what_was_replaced_is_found_before_anything_is_written() {
    needs_root!();
    let it = Workspace::new();
    it.promote(&[]).exits(0);
    let backup = it.l4t(".lbpayload/backups/1/0");
    edit_in_place(&backup);
    let before = it.everything_and_when();
    for args in [&["rollback"][..], &["rollback", "--dry-run"]] {
        let ran = it.action(args).exits(1);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        ran.says("backups/1/0: this backup is not what promote 1 replaced")
            .says("; go back less far");
        assert_eq!(it.everything_and_when(), before);
    }
}
