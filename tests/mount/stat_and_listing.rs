//! A mount as system tools show it: /proc/mounts, stat, statfs, directory listings.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::fixture::{Fixture, data, is_mounted, mount_lines, sample, sh};
use crate::support::{Image, tree};

#[test]
fn proc_mounts_shows_the_type_and_read_only() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    fixture.mounted(&[]);
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let (image, point) = (fixture.image.display(), fixture.point.display());
    let line = format!("{image} {point} fuse.lbpayload ro,nosuid,nodev,relatime,user_id=0,");
    let line = mounts
        .lines()
        .find(|l| l.starts_with(&line))
        .expect("the mount");
    assert!(line.contains("default_permissions"), "{line}");
    assert!(
        !line.contains("allow_other") && !line.contains("noexec"),
        "{line}"
    );
}

#[test]
fn kernel_mount_options_are_shown_in_proc_mounts() {
    needs_fuse!();
    for (option, shown) in [
        ("allow_other", "allow_other"),
        ("allow_root", "allow_other"),
        ("noexec", "noexec"),
        (
            "rw,suid,dev,noexec,exec,allow_other",
            "nosuid,nodev,relatime",
        ),
    ] {
        let fixture = Fixture::new(&sample());
        fixture.mount(&["-o", option]).exits(0);
        let line = mount_lines(&fixture.point).concat().join(" ");
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let point = format!(" {} ", fixture.point.display());
        let line = mounts.lines().find(|l| l.contains(&point)).expect(&line);
        assert!(line.contains(shown), "{option}: {line}");
        assert!(line.contains(" ro,nosuid,nodev"), "{option}: {line}");
    }
}

#[test]
fn fsname_with_special_characters_is_only_a_name() {
    needs_fuse!();
    for (given, shown) in [
        ("plain", "plain"),
        (r"a\,allow_other", "a,allow_other"),
        ("two words", r"two\040words"),
        ("tab\there", r"tab\011here"),
        ("line\nfeed", r"line\012feed"),
        (r"back\\slash", r"back\134slash"),
        ("no,allow_other", "no"),
        ("größe", "größe"),
    ] {
        let fixture = Fixture::new(&sample());
        fixture.mounted(&["-o", &format!("fsname={given}")]);
        let lines = mount_lines(&fixture.point);
        assert_eq!(lines.len(), 1);
        let source = &lines[0][lines[0].iter().position(|f| f == "-").unwrap() + 2];
        assert_eq!(source, shown);
        let everybody = lines[0].last().unwrap().contains("allow_other");
        assert_eq!(everybody, given == "no,allow_other", "{given}");
    }
}

#[test]
fn image_name_with_special_characters_cannot_inject_options() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    for name in ["a,allow_other,b", r"a\,b", "two words", "x=y"] {
        let image = fixture.dir().join(name);
        std::fs::copy(&fixture.image, &image).unwrap();
        fixture.mount_on(&[], &image, &fixture.point).exits(0);
        let found = sh("findmnt", &[&"-no", &"SOURCE,FS-OPTIONS", &fixture.point]);
        assert!(found.starts_with(image.to_str().unwrap()), "{found}");
        assert!(!found.replace(name, "").contains("allow_other"), "{found}");
        fixture.unmount(&[]).exits(0);
    }
}

#[test]
fn listing_has_exactly_the_files_with_their_data() {
    needs_fuse!();
    for image in [sample(), sample().narrow(), Image::new(&[])] {
        let fixture = Fixture::new(&image);
        fixture.mounted(&[]);
        let mut expected: Vec<_> = image
            .files
            .iter()
            .map(|(name, data)| (String::from_utf8(name.clone()).unwrap(), data.clone()))
            .collect();
        expected.sort();
        assert!(tree(&fixture.point) == expected);
    }
}

#[test]
fn stat_shows_sizes_modes_owner_and_image_time() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    sh("touch", &[&"-d", &"@1234567890.123456789", &fixture.image]);
    fixture.mounted(&["-o", "uid=12345,gid=54321,umask=027,allow_other"]);
    let root = fixture.point.metadata().unwrap();
    let file = fixture.file("large").metadata().unwrap();
    assert_eq!((root.mode(), file.mode()), (0o040_550, 0o100_440));
    assert_eq!((root.ino(), root.nlink(), file.nlink()), (1, 2, 1));
    assert_eq!((file.len(), file.blocks()), (2_500_001, 4883));
    for meta in [root, file] {
        assert_eq!((meta.uid(), meta.gid()), (12345, 54321));
        let times = [
            (meta.mtime(), meta.mtime_nsec()),
            (meta.atime(), meta.atime_nsec()),
            (meta.ctime(), meta.ctime_nsec()),
        ];
        assert_eq!(times, [(1_234_567_890, 123_456_789); 3]);
    }
}

#[test]
fn by_default_files_belong_to_root_and_are_readable_by_all() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    sh("touch", &[&"-d", &"1960-01-01", &fixture.image]);
    fixture.mounted(&[]);
    let meta = fixture.file("empty").metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode()), (0, 0, 0o100_444));
    assert_eq!(meta.mtime(), 0, "the kernel shows times before 1970 as 0");
    assert!(!meta.file_type().is_fifo() && meta.is_file());
    assert_eq!(fixture.point.metadata().unwrap().mode(), 0o040_555);
}

fn numbers(point: &Path) -> Vec<(String, u64, u64)> {
    let rows = std::fs::read_dir(point).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        let name = entry.file_name().into_string().unwrap();
        assert_eq!(std::os::unix::fs::DirEntryExt::ino(&entry), meta.ino());
        (name, meta.ino(), meta.len())
    });
    rows.collect()
}

#[test]
fn inode_numbers_and_order_are_the_same_for_every_mount() {
    needs_fuse!();
    let image = sample();
    let fixture = Fixture::new(&image);
    fixture.mounted(&[]);
    let first = numbers(&fixture.point);
    let expected: Vec<_> = image
        .files
        .iter()
        .enumerate()
        .map(|(n, (name, data))| {
            let name = String::from_utf8(name.clone()).unwrap();
            (name, n as u64 + 2, data.len() as u64)
        })
        .collect();
    assert_eq!(first, expected);
    fixture.unmount(&[]).exits(0);
    fixture.mounted(&["-o", "direct_io"]);
    assert_eq!(numbers(&fixture.point), first);
}

#[test]
fn df_shows_used_bytes_and_files_and_no_free_space() {
    needs_fuse!();
    let image = sample();
    let fixture = Fixture::new(&image);
    fixture.mounted(&[]);
    let stat = nix::sys::statvfs::statvfs(&fixture.point).unwrap();
    let bytes: usize = image.files.iter().map(|f| f.1.len()).sum();
    #[allow(clippy::useless_conversion)] // both have 32 bits on i686
    let shown = u64::from(stat.blocks()) * u64::from(stat.fragment_size());
    assert_eq!(shown, bytes.next_multiple_of(512) as u64);
    // The unit that statfs(2) counts blocks in, and the one of statvfs(3).
    assert_eq!(stat.block_size(), stat.fragment_size());
    assert_eq!((stat.blocks_free(), stat.blocks_available()), (0, 0));
    assert_eq!((stat.files(), stat.files_free()), (6, 0));
    assert_eq!(stat.name_max(), 255);
    let df = sh("df", &[&"--output=size", &"-B1", &fixture.point]);
    assert!(df.ends_with(&format!("{shown}\n")), "{df}");
}

#[test]
fn missing_name_is_not_found_repeatedly() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    fixture.mounted(&[]);
    for name in ["nope", "Z-first", "z-first ", "empty/under"] {
        let path = fixture.file(name);
        for _ in 0..2 {
            let code = path.metadata().unwrap_err().raw_os_error().unwrap();
            let expected = if name.contains('/') {
                libc::ENOTDIR
            } else {
                libc::ENOENT
            };
            assert_eq!(code, expected, "{name}");
        }
    }
    // Newer kernels allow FUSE longer names and ask the server.
    let long = fixture.file(&"x".repeat(256)).metadata().unwrap_err();
    let code = long.raw_os_error().unwrap();
    assert!([libc::ENAMETOOLONG, libc::ENOENT].contains(&code), "{long}");
}

#[test]
fn directory_of_20_000_files_lists_and_finds_each_file_once() {
    needs_fuse!();
    let files: Vec<(Vec<u8>, Vec<u8>)> = (0..20_000_u32)
        .map(|n| {
            (
                format!("package-{n}.tar").into_bytes(),
                n.to_le_bytes().to_vec(),
            )
        })
        .collect();
    let image = Image { wide: true, files };
    let fixture = Fixture::new(&image);
    fixture.mounted(&[]);
    let listed = numbers(&fixture.point);
    assert_eq!(listed.len(), 20_000);
    for (n, row) in listed.iter().enumerate() {
        assert_eq!(*row, (format!("package-{n}.tar"), n as u64 + 2, 4));
    }
    let name = "package-19999.tar";
    assert_eq!(
        std::fs::read(fixture.file(name)).unwrap(),
        data(&image, name)
    );
    // `find` lists directories in another way than Rust's read_dir.
    let found = sh("find", &[&fixture.point, &"-type", &"f", &"-size", &"4c"]);
    assert_eq!(found.lines().count(), 20_000);
    assert!(is_mounted(&fixture.point));
}
