//! `lbpayload pack` onto a device that held something else: it says what, and nothing of
//! it is found afterwards.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::disks::{Partitioned, backing, first_bytes};
use crate::support::{Loop, Ran, check, lbpayload, run};
use crate::{alone, needs_devices};

const SIZE: u64 = 320 << 20;

/// What a device held: how it is made, what blkid calls it, what pack calls it.
struct Old {
    make: fn(&Path),
    blkid: &'static str,
    pack: &'static str,
}

const OLD: &[Old] = &[
    Old {
        make: |device| tool("mkfs.ext4", &["-qF", "-L", "photos"], device),
        blkid: "TYPE=\"ext4\"",
        pack: "ext4 \"photos\"",
    },
    Old {
        make: |device| tool("mkfs.xfs", &["-qf", "-L", "films"], device),
        blkid: "TYPE=\"xfs\"",
        pack: "xfs \"films\"",
    },
    Old {
        make: |device| tool("mkfs.btrfs", &["-qf", "-L", "music"], device),
        blkid: "TYPE=\"btrfs\"",
        pack: "btrfs \"music\"",
    },
    Old {
        make: |device| tool("mkswap", &["-q", "-L", "pages"], device),
        blkid: "TYPE=\"swap\"",
        pack: "swap \"pages\"",
    },
    Old {
        make: |device| tool("mkfs.vfat", &["-n", "CAMERA"], device),
        blkid: "TYPE=\"vfat\"",
        pack: "vfat \"CAMERA\"",
    },
    Old {
        make: lvm_label,
        blkid: "TYPE=\"LVM2_member\"",
        pack: "LVM physical volume",
    },
    Old {
        make: |device| write(device, (SIZE & !0xffff) - 0x1_0000, &md_0_90()),
        blkid: "TYPE=\"linux_raid_member\"",
        pack: "Linux RAID member",
    },
    Old {
        make: |device| md_1(device, SIZE - 8192),
        blkid: "TYPE=\"linux_raid_member\"",
        pack: "Linux RAID member",
    },
    Old {
        make: |device| md_1(device, 0),
        blkid: "TYPE=\"linux_raid_member\"",
        pack: "Linux RAID member",
    },
    Old {
        make: |device| md_1(device, 4096),
        blkid: "TYPE=\"linux_raid_member\"",
        pack: "Linux RAID member",
    },
    Old {
        make: zfs_labels,
        blkid: "TYPE=\"zfs_member\"",
        pack: "zfs",
    },
    Old {
        make: |device| table(device, "gpt"),
        blkid: "PTTYPE=\"gpt\"",
        pack: "GPT partition table",
    },
    Old {
        make: |device| table(device, "dos"),
        blkid: "PTTYPE=\"dos\"",
        pack: "MBR partition table",
    },
];

fn tool(name: &str, options: &[&str], device: &Path) {
    check(Command::new(name).args(options).arg(device));
}

fn table(device: &Path, label: &str) {
    let script = format!("printf 'label: {label}\\nsize=8MiB\\n' | sfdisk -q --no-reread \"$0\"");
    check(Command::new("sh").args(["-c", &script]).arg(device));
}

fn write(device: &Path, at: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(device).unwrap();
    file.write_all_at(bytes, at).unwrap();
    file.sync_all().unwrap();
}

/// What pvcreate writes into the second sector, as far as blkid looks at it.
fn lvm_label(device: &Path) {
    let mut sector = [0_u8; 512];
    sector[..8].copy_from_slice(b"LABELONE");
    sector[8] = 1;
    sector[20] = 32;
    sector[24..32].copy_from_slice(b"LVM2 001");
    sector[32..64].fill(b'x');
    let mut crc = 0xf597_a6cf_u32;
    for byte in &sector[20..] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    sector[16..20].copy_from_slice(&crc.to_le_bytes());
    write(device, 512, &sector);
}

/// A superblock of md 0.90: magic, version 0.90.
fn md_0_90() -> Vec<u8> {
    let words = [0xa92b_4efc_u32, 0, 90, 0, 0, 1, 1, 1, 1, 1];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.resize(4096, 0);
    bytes
}

/// A superblock of md 1.x: magic, version 1, and its own place in sectors.
fn md_1(device: &Path, at: u64) {
    let mut bytes = vec![0_u8; 4096];
    bytes[..4].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes());
    bytes[4] = 1;
    bytes[16..32].fill(7);
    bytes[144..152].copy_from_slice(&(at / 512).to_le_bytes());
    write(device, at, &bytes);
}

/// Uberblocks in all four labels.
fn zfs_labels(device: &Path) {
    for label in [0, 256 << 10, SIZE - (512 << 10), SIZE - (256 << 10)] {
        for slot in 0..16 {
            let mut uberblock = [0_u8; 40];
            uberblock[..8].copy_from_slice(&0x00ba_b10c_u64.to_le_bytes());
            uberblock[8] = 1;
            uberblock[16] = 1;
            write(device, label + (128 << 10) + slot * 1024, &uberblock);
        }
    }
}

fn blkid(device: &Path) -> String {
    let ran = Ran::of(Command::new("blkid").arg("-p").arg(device));
    // 2: nothing was found.
    assert!(matches!(ran.status, Some(0 | 2)), "{}", ran.stderr);
    ran.stdout
}

#[track_caller]
fn assert_nothing_is_found(device: &Path, what: &str) {
    assert_eq!(blkid(device), "", "{what}");
    let wipefs = check(Command::new("wipefs").arg("--no-act").arg(device));
    assert_eq!(wipefs, "", "{what}");
}

/// A small input, so that the payload itself overwrites little.
fn input(dir: &Path) -> PathBuf {
    let path = dir.join("input");
    fs::write(&path, "abc").unwrap();
    path
}

fn pack(device: &Path, options: &[&str], input: &Path) -> Ran {
    let mut command = lbpayload();
    command.arg("pack").args(options).arg("-o").arg(device);
    Ran::of(command.arg(input))
}

#[test]
fn pack_names_what_was_on_a_device_and_leaves_no_signature_of_it() {
    needs_devices!();
    let _alone = alone();
    for (n, old) in OLD.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let file = backing(dir.path(), "disk", &[], SIZE);
        let device = Loop::with(&file, &[]);
        (old.make)(&device.path);
        let what = format!("{n}: {}", old.pack);
        let before = blkid(&device.path);
        assert!(before.contains(old.blkid), "{what}: {before}");
        let ran = pack(&device.path, &["--force"], &input(dir.path())).exits(0);
        let said = format!("lbpayload: note: found on it: {}\n", old.pack);
        assert!(ran.stderr.contains(&said), "{what}: {}", ran.stderr);
        assert_nothing_is_found(&device.path, &what);
        run([Path::new("verify"), &device.path]).exits(0);
    }
}

#[test]
fn pack_erases_copies_of_superblocks_in_the_middle_of_a_device() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let file = backing(dir.path(), "disk", &[], (256 << 30) + (8 << 20));
    let device = Loop::with(&file, &[]);
    // The second and third superblock of btrfs, the second header of LUKS 2.
    let copies: [(u64, &[u8]); 3] = [
        ((64 << 20) + 0x40, b"_BHRfS_M"),
        ((256 << 30) + 0x40, b"_BHRfS_M"),
        (4 << 20, b"SKUL\xba\xbe"),
    ];
    for (at, magic) in copies {
        write(&device.path, at, magic);
    }
    write(&device.path, 100 << 20, b"not a signature");
    let ran = pack(&device.path, &["--force"], &input(dir.path())).exits(0);
    ran.says("found on it: btrfs\n").says("found on it: LUKS\n");
    let disk = fs::File::open(&device.path).unwrap();
    let mut buf = [0; 15];
    for (at, _) in copies {
        disk.read_exact_at(&mut buf, at).unwrap();
        assert_eq!(buf, [0; 15], "at {at}");
    }
    disk.read_exact_at(&mut buf, 100 << 20).unwrap();
    assert_eq!(&buf, b"not a signature");
}

#[test]
fn pack_names_the_file_systems_of_partitions() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let parted = Partitioned::make(dir.path(), "gpt", 512, b"something");
    tool("mkfs.ext4", &["-qF", "-L", "root"], &parted.first);
    tool("mkswap", &["-q"], &parted.second);
    let (disk, input) = (&parted.disk.path, input(dir.path()));
    let ran = pack(disk, &["--dry-run"], &input).exits(0);
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let (first, second) = (name(&parted.first), name(&parted.second));
    for line in [
        "found on it: GPT partition table".to_owned(),
        format!("found on it: ext4 \"root\" on {first}"),
        format!("found on it: swap on {second}"),
    ] {
        assert!(
            ran.stdout.lines().any(|said| said == line),
            "{}",
            ran.stdout
        );
    }
    let report = pack(disk, &["--dry-run", "--json"], &input).exits(0);
    let report: serde_json::Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(report["device"]["size_bytes"], 64 << 20);
    assert_eq!(report["device"]["found"][1]["kind"], "ext4");
    assert_eq!(report["device"]["found"][1]["partition"], first);
    pack(disk, &["--force"], &input).exits(0);
    for part in [disk, &parted.first, &parted.second] {
        // The kernel may have dropped the partition.
        if fs::File::open(part).is_ok() {
            assert_nothing_is_found(part, &name(part));
        }
    }
}

#[test]
fn dry_run_of_pack_changes_nothing_on_a_device() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let file = backing(dir.path(), "disk", &[], 32 << 20);
    let device = Loop::with(&file, &[]);
    tool("mkfs.ext4", &["-qF"], &device.path);
    let before = fs::read(&file).unwrap();
    let input = input(dir.path());
    for options in [&["--dry-run"][..], &["--dry-run", "--force"]] {
        let ran = pack(&device.path, options, &input).exits(0);
        let mut lines = ran.stdout.lines();
        let first = format!(
            "would pack 1 file (40 B) into `{}` (32",
            device.path.display()
        );
        assert!(lines.next().unwrap().starts_with(&first), "{}", ran.stdout);
        assert_eq!(lines.next(), Some("found on it: ext4"));
    }
    assert!(fs::read(&file).unwrap() == before, "the device was changed");
    let small = backing(dir.path(), "small", &[], 512);
    let small = Loop::with(&small, &[]);
    pack(&small.path, &["--dry-run"], &file)
        .exits(1)
        .says("too small");
}

#[test]
fn failed_pack_leaves_neither_an_old_signature_nor_a_payload() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let file = backing(dir.path(), "disk", &[], SIZE);
    let device = Loop::with(&file, &[]);
    tool("mkfs.ext4", &["-qF"], &device.path);
    write(&device.path, SIZE - 512, b"EFI PART");
    let (input, sums) = (input(dir.path()), dir.path().join("sums"));
    fs::write(&sums, format!("{:064}  input\n", 0)).unwrap();
    let sums = sums.to_str().unwrap();
    pack(&device.path, &["--force", "--checksums", sums], &input)
        .exits(1)
        .says("checksum does not match");
    assert_nothing_is_found(&device.path, "after the failure");
    assert_eq!(first_bytes(&device.path, 512), [0; 512]);
    let mut end = [0; 8];
    let disk = fs::File::open(&device.path).unwrap();
    disk.read_exact_at(&mut end, SIZE - 512).unwrap();
    assert_eq!(end, [0; 8]);
}

/// The writes and syncs of a pack, in order: `Some((offset, length))` or `None`.
fn calls(device: &Path, input: &Path, trace: &Path) -> Vec<Option<(u64, u64)>> {
    let mut command = Command::new("strace");
    // Data is written by a thread of its own.
    command.args(["-f", "-y", "-e", "trace=pwrite64,fsync", "-o"]);
    command.arg(trace).arg(lbpayload().get_program());
    command
        .args(["pack", "--force", "-o"])
        .arg(device)
        .arg(input);
    Ran::of(&mut command).exits(0);
    let on_device = format!("<{}", device.display());
    let call = |line: &str| match line.contains(" fsync(") {
        true => None,
        false => {
            let rest = line.rsplit_once(") = ").unwrap().0;
            let mut numbers = rest.rsplit(", ").map(|word| word.parse().unwrap());
            let offset = numbers.next().unwrap();
            Some((offset, numbers.next().unwrap()))
        }
    };
    let text = fs::read_to_string(trace).unwrap();
    let lines = text.lines().filter(|line| line.contains(&on_device));
    lines.map(call).collect()
}

#[test]
fn signatures_are_erased_before_data_is_written_and_the_first_sector_comes_last() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let file = backing(dir.path(), "disk", &[], SIZE);
    let device = Loop::with(&file, &[]);
    write(&device.path, 64 << 20 | 0x40, b"_BHRfS_M");
    let large = dir.path().join("large");
    fs::write(&large, vec![7; 3 << 20]).unwrap();
    let calls = calls(&device.path, &large, &dir.path().join("trace"));
    let mib = 1 << 20;
    let expected = [
        Some((0, 512)),
        Some((64 * mib, 512)),
        None,
        Some((0, 2 * mib)),
        Some((SIZE - 2 * mib, 2 * mib)),
        None,
        Some((0, mib)),
        Some((mib, mib)),
        Some((2 * mib, mib)),
        Some((3 * mib, 512)),
        None,
        Some((0, 512)),
        None,
    ];
    assert_eq!(calls, expected);
}
