//! The initramfs is rebuilt by a tool that does what NVIDIA's does: it unpacks the initramfs, takes
//! the modules from rootfs, and packs both files again. The kernel and the modules are real.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::needs_root;
use crate::real_kernel::RealImage;
use crate::workspace::Workspace;

/// Files are replaced and not written to, since the tests share them.
pub(crate) const TOOL: &str = r#"#!/bin/sh
set -e
[ "$(id -u)" = 0 ]
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/root"
gzip -dc bootloader/l4t_initrd.img | (cd "$work/root" && cpio -idm --quiet)
(cd "$work/root" && find usr/lib/modules -name '*.ko') > "$work/modules"
[ -s "$work/modules" ]
while read -r module; do
    cp -p "rootfs/$module" "$work/root/$module"
done < "$work/modules"
(cd "$work/root" && find . | sort | cpio -o -H newc --quiet) | gzip -n > "$work/initrd"
for made in bootloader/l4t_initrd.img rootfs/boot/initrd; do
    rm -f "$made"
    cp "$work/initrd" "$made"
done
"#;

#[test]
fn refresh_repacks_a_stale_initramfs_and_verify_finds_nothing() {
    needs_root!();
    let Some(real) = RealImage::new() else { return };
    let tool = real.l4t("tools/l4t_update_initrd.sh");
    real.put(&tool, TOOL.as_bytes());
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    let modules = real.some_modules();
    // Bytes behind the end of a module do not change what it says about itself.
    let newer = |module: &Path| {
        let mut bytes = fs::read(real.l4t("rootfs").join(module)).unwrap();
        bytes.extend(b"newer");
        bytes
    };
    let is_stale = || {
        let said = real.verify(&[]).exits(1).stdout;
        for check in ["bootloader-initrd: FAILED (", "rootfs-initrd: FAILED ("] {
            assert!(said.contains(check), "{said}");
        }
    };
    let it = Workspace::empty();
    it.write_overlay(Path::new("rootfs").join(&modules[0]), newer(&modules[0]));
    it.commit("a newer module");
    let image = real.l4t("");
    let promote = |option: &[&str]| {
        let args = [&["--image", image.to_str().unwrap()], option].concat();
        it.promote(&args).exits(0).stdout
    };
    let said = real.verify(&[]).exits(0).stdout;
    assert!(!said.contains("FAILED"), "{said}");

    promote(&["--no-initramfs"]);
    is_stale();
    let said = promote(&["--refresh-initramfs"]);
    assert!(said.contains("initramfs: rebuilt"), "{said}");
    let said = real.verify(&[]).exits(0).stdout;
    assert_eq!(
        said.matches("12 modules are the same as in rootfs").count(),
        2,
        "{said}"
    );

    // Of a module that was changed by hand, promote knows nothing.
    real.put(&real.l4t("rootfs").join(&modules[1]), &newer(&modules[1]));
    is_stale();
    promote(&[]);
    is_stale();
    promote(&["--refresh-initramfs"]);
    real.verify(&[]).exits(0);
}
