//! `promote verify`, with a real kernel, its modules and real archives.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::Value;

use crate::needs_root;
use crate::real_kernel::{RealImage, pack};
use crate::support::Ran;
use crate::workspace::Workspace;

/// The JSON of a check.
fn check_of(ran: &Ran, name: &str) -> Value {
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    checks
        .iter()
        .find(|check| check["name"] == name)
        .unwrap()
        .clone()
}

/// A cpio archive of files with any names.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, data) in files.iter().chain([&("TRAILER!!!", &[][..])]) {
        let mut fields = [0; 13];
        (fields[1], fields[4]) = (0o100_644, 1);
        (fields[6], fields[11]) = (data.len(), name.len() + 1);
        out.extend(b"070701");
        out.extend(
            fields
                .iter()
                .flat_map(|field| format!("{field:08x}").into_bytes()),
        );
        for part in [format!("{name}\0").as_bytes(), data] {
            out.extend(part);
            out.resize(out.len().next_multiple_of(4), 0);
        }
    }
    out
}

#[test]
fn verify_passes_on_a_real_kernel_whatever_compresses_its_initramfs() {
    let Some(it) = RealImage::new() else { return };
    let early = archive(&[("kernel/firmware/early", b"x")]);
    let main = it.archive(&it.some_modules());
    for (program, args) in [("gzip", "-n"), ("zstd", "-q"), ("xz", "--check=crc32")] {
        let packed = pack(program, &[args], &main);
        it.put_initrds(&[&early[..], &[0; 60], &packed].concat());
        // The other one is read too.
        it.put(&it.l4t("rootfs/boot/initrd"), &packed);
        let ran = it.verify(&[]);
        let release = &it.release;
        let image = it.l4t("");
        let wanted = format!(
            "kernel-images: OK (both kernel images are the same)\n\
             kernel-release: OK ({release})\n\
             vermagic: OK (992 modules are built for this kernel)\n\
             bootloader-initrd: OK (12 modules are the same as in rootfs)\n\
             rootfs-initrd: OK (12 modules are the same as in rootfs)\n\
             modules-dep: OK (it lists every module and what each depends on)\n\
             promoted-files: OK (nothing is recorded as promoted)\n\
             initramfs-refresh: OK (it is not due)\n\
             image: {}\n",
            image.display()
        );
        let count = ran.stdout.split("vermagic: OK (").nth(1).unwrap();
        let count = count.split(' ').next().unwrap();
        assert!(count.parse::<u32>().unwrap() > 50, "{count}");
        assert_eq!(ran.stdout, wanted.replace("992", count), "{program}");
        assert_eq!((ran.status, &*ran.stderr), (Some(0), ""));
        assert_eq!(it.verify(&["-q"]).stdout, "");
    }
}

#[test]
fn modules_may_be_compressed_in_rootfs_or_in_the_initramfs() {
    let Some(it) = RealImage::new() else { return };
    let modules = it.some_modules();
    let plain = it.archive(&modules);
    for (path, (program, args, suffix)) in modules.iter().zip([
        ("xz", ["--check=crc32", "--lzma2=dict=1MiB"], "xz"),
        ("zstd", ["-q", "-19"], "zst"),
    ]) {
        let path = it.l4t("rootfs").join(path);
        let packed = pack(program, &args, &fs::read(&path).unwrap());
        fs::remove_file(&path).unwrap();
        it.put(&path.with_extension(format!("ko.{suffix}")), &packed);
    }
    it.depmod();
    let gzipped = archive(&[(
        &format!("lib/modules/{}/{}.gz", it.release, "kernel/fs/fuse/fuse.ko"),
        &pack(
            "gzip",
            &[],
            &fs::read(it.module("kernel/fs/fuse/fuse.ko")).unwrap(),
        ),
    )]);
    it.put_initrds(&[plain, gzipped].concat());
    let ran = it.verify(&[]);
    assert_eq!(ran.status, Some(0), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("bootloader-initrd: OK (1"),
        "{}",
        ran.stdout
    );
}

/// A fault, the checks that find it, and what they say.
type Fault = (&'static str, &'static str, &'static str, fn(&RealImage));

const FAULTS: &[Fault] = &[
    (
        "kernel-images",
        "rootfs/boot/Image: it is not the same as kernel/Image",
        "`lbpayload promote` copies",
        |it| {
            it.put(&it.l4t("rootfs/boot/Image"), b"old kernel");
        },
    ),
    (
        "kernel-images",
        "rootfs/boot/Image: no such file",
        "promote",
        |it| {
            fs::remove_file(it.l4t("rootfs/boot/Image")).unwrap();
        },
    ),
    (
        "kernel-release",
        "kernel/Image: it is not a kernel image",
        "arm64",
        |it| {
            for name in ["kernel/Image", "rootfs/boot/Image"] {
                it.put(&it.l4t(name), &vec![7; 1 << 20]);
            }
        },
    ),
    (
        "vermagic",
        "fuse.ko: it is built for another kernel, 6",
        "build these modules again",
        |it| {
            let path = it.module("kernel/fs/fuse/fuse.ko");
            let bytes = fs::read(&path).unwrap();
            let at = bytes.windows(9).position(|w| w == b"vermagic=").unwrap();
            let mut other = bytes.clone();
            other[at + 9 + 2] = b'7';
            it.put(&path, &other);
        },
    ),
    (
        "vermagic",
        "fuse.ko: it is built for",
        "build these modules again",
        |it| {
            // The same release with another setting.
            let path = it.module("kernel/fs/fuse/fuse.ko");
            let bytes = fs::read(&path).unwrap();
            let at = bytes.windows(10).position(|w| w == b"mod_unload").unwrap();
            let mut other = bytes.clone();
            other[at] = b'M';
            it.put(&path, &other);
        },
    ),
    (
        "vermagic",
        "fuse.ko: it is not a kernel module (cut off",
        "build these modules again",
        |it| {
            let path = it.module("kernel/fs/fuse/fuse.ko");
            let bytes = fs::read(&path).unwrap();
            it.put(&path, &bytes[..bytes.len() / 2]);
        },
    ),
    (
        "vermagic",
        "rootfs/lib/modules/6",
        "build these modules again",
        |it| {
            fs::rename(it.module(""), it.l4t("rootfs/usr/lib/modules/5.0")).unwrap();
        },
    ),
    (
        "rootfs-initrd",
        ".ko: it is another version than in the initramfs",
        "l4t_update_initrd.sh",
        |it| {
            let path = it.l4t("rootfs").join(&it.some_modules()[0]);
            let mut bytes = fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            it.put(&path, &bytes);
        },
    ),
    (
        "bootloader-initrd",
        ".ko: it is in the initramfs, and not in rootfs",
        "l4t_update_initrd.sh",
        |it| {
            fs::remove_file(it.l4t("rootfs").join(&it.some_modules()[0])).unwrap();
        },
    ),
    (
        "bootloader-initrd",
        "bootloader/l4t_initrd.img: it is cut off",
        "l4t_update_initrd.sh",
        |it| {
            let path = it.l4t("bootloader/l4t_initrd.img");
            let bytes = fs::read(&path).unwrap();
            it.put(&path, &bytes[..bytes.len() / 3]);
        },
    ),
    (
        "rootfs-initrd",
        "rootfs/boot/initrd: it has bytes that are neither",
        "l4t_update_initrd.sh",
        |it| {
            it.put(&it.l4t("rootfs/boot/initrd"), b"old initrd\n");
        },
    ),
    (
        "rootfs-initrd",
        "rootfs/boot/initrd: there is no cpio header at byte 112",
        "l4t_update",
        |it| {
            let mut bytes = archive(&[("a", b"")]);
            bytes[112] = b'x';
            it.put(&it.l4t("rootfs/boot/initrd"), &bytes);
        },
    ),
    (
        "rootfs-initrd",
        "rootfs/boot/initrd: it has modules, and none for 6",
        "l4t_update_initrd.sh",
        |it| {
            it.put(
                &it.l4t("rootfs/boot/initrd"),
                &archive(&[("lib/modules/5.0/a.ko", b"")]),
            );
        },
    ),
    (
        "rootfs-initrd",
        "it has a file with .. in its name, lib/modules/../../etc/shadow",
        "l4t_update",
        |it| {
            it.put(
                &it.l4t("rootfs/boot/initrd"),
                &archive(&[("lib/modules/../../etc/shadow", b"root::")]),
            );
        },
    ),
    (
        "modules-dep",
        "modules.dep: no such file",
        "sudo depmod -b ROOTFS RELEASE",
        |it| {
            fs::remove_file(it.module("modules.dep")).unwrap();
        },
    ),
    (
        "modules-dep",
        "modules.dep.bin: no such file",
        "sudo depmod -b ROOTFS RELEASE",
        |it| {
            fs::remove_file(it.module("modules.dep.bin")).unwrap();
        },
    ),
    (
        "modules-dep",
        "updates/new.ko: it is not in modules.dep",
        "sudo depmod -b ROOTFS RELEASE",
        |it| {
            let bytes = fs::read(it.module("kernel/fs/fuse/fuse.ko")).unwrap();
            it.put(&it.module("updates/new.ko"), &bytes);
        },
    ),
    (
        "modules-dep",
        "cuse.ko: it needs fuse, and modules.dep does not say so",
        "depmod",
        |it| {
            let path = it.module("modules.dep");
            let text = fs::read_to_string(&path).unwrap();
            let other = text.replace("cuse.ko: kernel/fs/fuse/fuse.ko", "cuse.ko:");
            assert!(text != other);
            it.put(&path, other.as_bytes());
        },
    ),
    (
        "modules-dep",
        "fuse.ko: it is in modules.dep, and not there",
        "depmod",
        |it| {
            fs::remove_file(it.module("kernel/fs/fuse/fuse.ko")).unwrap();
        },
    ),
];

#[test]
fn verify_finds_each_fault_names_it_and_says_what_to_do() {
    for (name, message, help, plant) in FAULTS {
        let Some(it) = RealImage::new() else { return };
        plant(&it);
        let ran = it.verify(&[]);
        let start = format!("{name}: FAILED (");
        let block = ran.stdout.split(&start).nth(1);
        let block = block.unwrap_or_else(|| panic!("{name}, {message}: {}", ran.stdout));
        let lines: Vec<&str> = block
            .lines()
            .skip(1)
            .take_while(|l| l.starts_with("  "))
            .collect();
        let is_said = lines.iter().any(|line| line.contains(message));
        assert!(is_said, "{message}: {lines:?}");
        let rootfs = it.l4t("rootfs");
        let help = help
            .replace("ROOTFS", rootfs.to_str().unwrap())
            .replace("RELEASE", &it.release);
        let last = lines.last().unwrap();
        assert!(
            last.starts_with("  help: ") && last.contains(&help),
            "{lines:?}"
        );
        assert_eq!((ran.status, &*ran.stderr), (Some(1), ""));
        let json = it.verify(&["--json"]);
        assert_eq!(json.status, Some(1));
        let check = check_of(&json, name);
        assert_eq!(check["state"], "failed");
        assert!(check["help"][0].as_str().unwrap().contains(&help));
    }
}

#[test]
fn depmod_repairs_what_verify_says_it_repairs() {
    let Some(it) = RealImage::new() else { return };
    let bytes = fs::read(it.module("kernel/fs/fuse/virtiofs.ko")).unwrap();
    fs::remove_file(it.module("kernel/fs/fuse/virtiofs.ko")).unwrap();
    it.put(&it.module("updates/virtiofs.ko"), &bytes);
    let ran = it.verify(&[]);
    assert!(
        ran.stdout
            .contains("modules-dep: FAILED (it does not match"),
        "{}",
        ran.stdout
    );
    it.depmod();
    assert_eq!(it.verify(&[]).status, Some(0));
}

#[test]
fn an_absolute_name_is_the_same_module_and_the_last_one_of_a_name_counts() {
    let Some(it) = RealImage::new() else { return };
    let path = format!("/usr/lib/modules/{}/kernel/fs/fuse/fuse.ko", it.release);
    let bytes = fs::read(it.module("kernel/fs/fuse/fuse.ko")).unwrap();
    it.put_initrds(&archive(&[(&path, &bytes)]));
    assert_eq!(it.verify(&[]).status, Some(0));
    // The kernel takes the last one.
    it.put_initrds(&archive(&[(&path, b"old"), (&path, &bytes)]));
    assert_eq!(it.verify(&[]).status, Some(0));
    it.put_initrds(&archive(&[(&path, &bytes), (&path, b"old")]));
    assert_eq!(it.verify(&[]).status, Some(1));
    // What was outside is as it was: nothing is unpacked.
    assert!(!it.l4t("usr").exists());
}

#[test]
fn what_lbpayload_does_not_read_could_not_be_checked_and_fails_the_gate() {
    let Some(it) = RealImage::new() else { return };
    let lz4 = [&[0x02, 0x21, 0x4c, 0x18][..], &[7; 100]].concat();
    it.put(&it.l4t("bootloader/l4t_initrd.img"), &lz4);
    // Only the last of two hard links has the data.
    let module = it.some_modules()[0].clone();
    let copy = module.with_file_name("copy.ko");
    fs::hard_link(it.l4t("rootfs").join(&module), it.l4t("rootfs").join(&copy)).unwrap();
    it.depmod();
    let linked = it.archive(&[module, copy]);
    it.put(&it.l4t("rootfs/boot/initrd"), &linked);
    let ran = it.verify(&["--json"]);
    assert_eq!(ran.status, Some(1));
    for (name, message) in [
        (
            "bootloader-initrd",
            "it is compressed with lz4, which lbpayload does not read",
        ),
        (
            "rootfs-initrd",
            "it is a hard link in the initramfs, which lbpayload does not follow",
        ),
    ] {
        let check = check_of(&ran, name);
        assert_eq!(check["state"], "unchecked", "{check}");
        assert_eq!(check["problems"][0]["message"], message);
    }
    assert_eq!(check_of(&ran, "modules-dep")["state"], "ok");
}

#[test]
fn a_symlink_that_leads_out_of_the_image_is_not_followed() {
    let Some(it) = RealImage::new() else { return };
    for (name, target) in [
        ("bootloader/l4t_initrd.img", "/etc/passwd"),
        ("kernel/Image", "../../../../../../../etc/passwd"),
        ("rootfs/boot/initrd", "initrd"),
    ] {
        fs::remove_file(it.l4t(name)).unwrap();
        symlink(target, it.l4t(name)).unwrap();
    }
    let ran = it.verify(&["--json"]);
    for name in ["bootloader-initrd", "kernel-images", "kernel-release"] {
        let check = check_of(&ran, name);
        assert_eq!(check["state"], "failed", "{check}");
        assert_eq!(
            check["problems"][0]["message"],
            "a symlink leads out of the image"
        );
    }
    let check = check_of(&ran, "rootfs-initrd");
    let message = "the symlinks in its path form a loop";
    assert_eq!(check["problems"][0]["message"], message);
    assert_eq!(check_of(&ran, "vermagic")["state"], "unchecked");
}

#[test]
fn what_only_root_can_read_could_not_be_checked_and_fails_the_gate() {
    needs_root!();
    let Some(it) = RealImage::new() else { return };
    for name in ["rootfs/boot/initrd", "rootfs/boot/Image"] {
        let bytes = fs::read(it.l4t(name)).unwrap();
        it.put(&it.l4t(name), &bytes);
        fs::set_permissions(it.l4t(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    // As another user, with a program and an image that everybody can read.
    let public = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()
        .unwrap();
    let program = public.path().join("lbpayload");
    fs::copy(env!("CARGO_BIN_EXE_lbpayload"), &program).unwrap();
    let image = public.path().join("image");
    crate::support::check(Command::new("cp").arg("-a").arg(it.l4t("")).arg(&image));
    let verify = |path: &str| {
        let mut command = Command::new(&program);
        command
            .args(["promote", "verify", "--image"])
            .arg(&image)
            .uid(65534)
            .gid(65534);
        if path == "--json" {
            command.arg(path);
        }
        Ran::of(&mut command)
    };
    let ran = verify("");
    assert_eq!(ran.status, Some(1));
    assert!(
        ran.stdout.contains(
            "rootfs-initrd: could not be checked (the initramfs could not be read completely)\n  \
             rootfs/boot/initrd: Permission denied\n  help: run the same command as root\n"
        ),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("vermagic: OK ("), "{}", ran.stdout);
    let json = verify("--json");
    for name in ["kernel-images", "rootfs-initrd"] {
        assert_eq!(check_of(&json, name)["state"], "unchecked");
    }
    assert_eq!(check_of(&json, "bootloader-initrd")["state"], "ok");
}

#[test]
fn without_a_kernel_the_modules_could_not_be_checked() {
    needs_root!();
    let it = Workspace::new();
    let ran = it.action(&["verify", "--json"]);
    // Its kernel is a text of one line.
    assert_eq!(check_of(&ran, "kernel-release")["state"], "failed");
    assert_eq!(check_of(&ran, "modules-dep")["state"], "unchecked");
    assert_eq!(ran.status, Some(1));
}

#[test]
fn changed_files_and_a_postponed_initramfs_fail_the_gate() {
    needs_root!();
    let it = Workspace::new();
    let ran = it.promote(&["--no-initramfs"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let ran = it.action(&["verify", "--json"]);
    assert_eq!(check_of(&ran, "promoted-files")["state"], "ok");
    assert_eq!(check_of(&ran, "initramfs-refresh")["state"], "failed");
    assert_eq!(check_of(&ran, "kernel-images")["state"], "ok");
    assert_eq!(it.promote(&[]).status, Some(0));
    fs::write(it.l4t("kernel/dtb/board.dtb"), "edited").unwrap();
    let ran = it.action(&["verify", "--json"]);
    assert_eq!(check_of(&ran, "initramfs-refresh")["state"], "ok");
    let check = check_of(&ran, "promoted-files");
    assert_eq!(check["state"], "failed");
    assert_eq!(check["problems"][0]["path"], "kernel/dtb/board.dtb");
    assert_eq!(
        check["problems"][0]["message"],
        "it was changed after promote 1"
    );
    // In the workspace, no image needs to be named.
    let in_workspace = it.promote(&["verify", "--json"]);
    assert_eq!(check_of(&in_workspace, "promoted-files"), check);
}

#[test]
fn verify_writes_nothing() {
    let it = Workspace::new();
    let before = it.everything_and_when();
    it.action(&["verify"]);
    assert_eq!(it.everything_and_when(), before);
}
