//! Every way to read a file returns its data.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use lbpayload::block::AlignedBuf;
use memmap2::{Advice, MmapOptions};
use rustix::fs::SeekFrom as To;

use crate::fixture::{Fixture, Foreground, data, sample, sh};
use crate::support::{Image, Lacks, check, lbpayload, noise, skip};

const HOWS: [&[&str]; 3] = [
    &[],
    &["-o", "direct_io"],
    &["--direct=never", "-o", "noexec"],
];

/// A mapping of a file.
fn map(file: &File, shared: bool) -> std::io::Result<MmapRead> {
    let options = MmapOptions::new();
    if shared {
        return options.map_raw_read_only(file).map(MmapRead);
    }
    #[allow(unsafe_code)] // the only way there is to map a file privately
    // SAFETY: as a raw mapping it is only accessed by `get`, below.
    let map = unsafe { options.map_copy_read_only(file) };
    map.map(|map| MmapRead(map.into()))
}

struct MmapRead(memmap2::MmapRaw);

impl MmapRead {
    /// The bytes at `start`, unless access to them would raise SIGBUS.
    #[allow(unsafe_code)] // reads the mapping
    fn get(&self, start: usize, len: usize) -> std::io::Result<Vec<u8>> {
        self.0.advise_range(Advice::PopulateRead, start, len)?;
        // SAFETY: in bounds, as advise_range has checked, and in memory. Nothing
        // changes it, since the file is read-only.
        let bytes = unsafe { std::slice::from_raw_parts(self.0.as_ptr().add(start), len) };
        Ok(bytes.to_vec())
    }
}

#[test]
fn reads_of_any_offset_and_size_return_the_data() {
    needs_fuse!();
    for how in HOWS {
        let image = sample();
        let fixture = Fixture::new(&image);
        fixture.mounted(how);
        let file = File::open(fixture.file("large")).unwrap();
        let data = data(&image, "large");
        for (offset, size) in [
            (0, 1),
            (1, 4096),
            (4095, 2),
            (131_071, 262_145),
            (999_999, 1 << 20),
            (2_499_999, 100),
            (2_500_000, 1),
            (2_500_001, 1),
            (1_u64 << 40, 10),
        ] {
            let mut buf = vec![0; size];
            let n = file.read_at(&mut buf, offset).unwrap();
            let start = offset.min(data.len() as u64) as usize;
            let end = (start + size).min(data.len());
            assert!(buf[..n] == data[start..end], "{how:?} {offset} {size} {n}");
        }
    }
}

#[test]
fn private_and_shared_mappings_return_the_data() {
    needs_fuse!();
    for how in [HOWS[0], HOWS[1]] {
        let image = sample();
        let fixture = Fixture::new(&image);
        fixture.mounted(how);
        let file = File::open(fixture.file("large")).unwrap();
        for shared in [false, true] {
            let map = map(&file, shared).unwrap();
            assert!(map.get(0, 2_500_001).unwrap() == data(&image, "large"));
        }
    }
}

#[test]
fn mapping_of_lost_data_fails_instead_of_returning_zeros() {
    needs_fuse!();
    for how in [HOWS[0], HOWS[1]] {
        let image = sample();
        let fixture = Fixture::new(&image);
        fixture.mounted(how);
        let path = fixture.file("large");
        let file = File::open(&path).unwrap();
        let start = crate::fixture::data_offset(&image, "large") as usize;
        let end = 1_000_000 - start;
        OpenOptions::new()
            .write(true)
            .open(&fixture.image)
            .unwrap()
            .set_len(1_000_000)
            .unwrap();
        let page = end / 4096 * 4096;
        for shared in [false, true] {
            let map = map(&file, shared).unwrap();
            let e = map.get(page, 4096).unwrap_err();
            assert_eq!(e.raw_os_error(), Some(libc::EFAULT), "{how:?}");
            let before = map.get(page - 4096, 4096).unwrap();
            assert!(
                before == data(&image, "large")[page - 4096..page],
                "{how:?}"
            );
        }
        assert_eq!(file.metadata().unwrap().len(), 2_500_001, "{how:?}");
        assert_eq!(path.metadata().unwrap().len(), 2_500_001, "{how:?}");
    }
}

#[test]
fn o_direct_reads_return_the_data() {
    needs_fuse!();
    for how in HOWS {
        let image = sample();
        let fixture = Fixture::new(&image);
        fixture.mounted(how);
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(fixture.file("large"))
            .unwrap();
        let mut buf = AlignedBuf::new(3 << 20).unwrap();
        let mut done = 0;
        while done < 2_500_001 {
            // From the next page on, as with O_DIRECT on other filesystems.
            let n = file.read_at(&mut buf[done..], done as u64).unwrap();
            assert!(n > 0, "{how:?} ends at {done}");
            done += n;
        }
        assert!(buf[..done] == *data(&image, "large"), "{how:?}");
    }
}

#[test]
fn sendfile_splice_and_copy_file_range_return_the_data() {
    needs_fuse!();
    for how in HOWS {
        let image = sample();
        let fixture = Fixture::new(&image);
        fixture.mounted(how);
        let out = fixture.dir().join("out");
        // std's copy uses copy_file_range and sendfile where possible.
        std::fs::copy(fixture.file("large"), &out).unwrap();
        assert!(
            std::fs::read(&out).unwrap() == data(&image, "large"),
            "{how:?}"
        );
        let mut from = File::open(fixture.file("large")).unwrap();
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let (mut reader, writer) = (File::from(reader), File::from(writer));
        // A file into a pipe: splice or sendfile.
        let sent = std::thread::spawn(move || {
            let mut writer = writer;
            std::io::copy(&mut from, &mut writer).unwrap()
        });
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        assert_eq!(sent.join().unwrap(), got.len() as u64);
        assert!(got == data(&image, "large"), "{how:?}");
    }
}

#[test]
fn seek_knows_the_file_size_and_reads_after_the_end_return_nothing() {
    needs_fuse!();
    for how in HOWS {
        let fixture = Fixture::new(&sample());
        fixture.mounted(how);
        let mut file = File::open(fixture.file("medium")).unwrap();
        assert_eq!(file.seek(SeekFrom::End(-3)).unwrap(), 70_000);
        let mut end = Vec::new();
        file.read_to_end(&mut end).unwrap();
        assert_eq!(end, noise(2, 70_003)[70_000..]);
        assert_eq!(file.seek(SeekFrom::End(100)).unwrap(), 70_103);
        assert_eq!(file.read(&mut [0; 9]).unwrap(), 0);
        assert!(file.seek(SeekFrom::Current(-80_000)).is_err());
        assert_eq!(rustix::fs::seek(&file, To::Hole(5)).unwrap(), 70_003);
        assert_eq!(rustix::fs::seek(&file, To::Data(5)).unwrap(), 5);
        let behind = rustix::fs::seek(&file, To::Data(70_003)).unwrap_err();
        assert_eq!(behind, rustix::io::Errno::NXIO);
        let empty = File::open(fixture.file("empty")).unwrap();
        assert_eq!(empty.read_at(&mut [0; 9], 0).unwrap(), 0);
    }
}

#[test]
fn program_runs_with_an_executable_mode_and_not_with_noexec() {
    needs_fuse!();
    let script = b"#!/bin/sh\necho it runs\n";
    let fixture = Fixture::new(&Image::new(&[("script", script)]));
    // Files in a payload are not executable, so the test runs /bin/sh.
    fixture.mounted(&[]);
    assert_eq!(sh("/bin/sh", &[&fixture.file("script")]), "it runs\n");
    let mode = fixture
        .file("script")
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o111, 0);
    let refused = Command::new(fixture.file("script")).output().unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    // The loader maps the program that it is given, unless the mount is noexec.
    let program = std::fs::read("/bin/true").unwrap();
    for (options, runs) in [("exec", true), ("noexec", false)] {
        let fixture = Fixture::new(&Image::new(&[("pad", b"123"), ("true", &program)]));
        fixture.mounted(&["-o", options]);
        let Some(loader) = loader() else { return };
        let ran = Command::new(loader).arg(fixture.file("true")).output();
        assert_eq!(ran.unwrap().status.success(), runs, "{options}");
    }
}

fn loader() -> Option<&'static str> {
    let known = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    let found = known.into_iter().find(|path| Path::new(path).exists());
    if found.is_none() {
        skip(
            Lacks::Machine,
            "running the loader: its path is not known on this machine",
        );
    }
    found
}

#[test]
fn sixty_four_parallel_readers_get_the_data() {
    needs_fuse!();
    for how in [HOWS[0], HOWS[1]] {
        let image = sample();
        let fixture = Fixture::new(&image);
        fixture.mounted(how);
        std::thread::scope(|scope| {
            for n in 0..64 {
                let (fixture, image) = (&fixture, &image);
                scope.spawn(move || {
                    let (name, data) = &image.files[n % image.files.len()];
                    let name = std::str::from_utf8(name).unwrap();
                    let got = std::fs::read(fixture.file(name)).unwrap();
                    assert!(got == *data, "{name}");
                    let listed = std::fs::read_dir(&fixture.point).unwrap().count();
                    assert_eq!(listed, image.files.len());
                });
            }
        });
    }
}

#[test]
fn sixty_four_processes_can_read_from_a_foreground_server() {
    needs_fuse!();
    let image = sample();
    let fixture = Fixture::new(&image);
    let mut command = lbpayload();
    command
        .args(["mount", "-f"])
        .arg(&fixture.image)
        .arg(&fixture.point);
    let mut server = Foreground::start(&mut command, &fixture.point);
    let readers: Vec<_> = (0..64)
        .map(|_| {
            let mut cmp = Command::new("cmp");
            cmp.args(["--ignore-initial", "0:0"]);
            cmp.arg(fixture.file("large")).arg(fixture.file("large"));
            cmp.spawn().unwrap()
        })
        .collect();
    for mut reader in readers {
        assert!(reader.wait().unwrap().success());
    }
    check(Command::new("umount").arg(&fixture.point));
    assert_eq!(server.ends(), 0);
}

/// The number of bytes of a file that are in the page cache.
fn cached_bytes(path: &Path) -> u64 {
    let mut fincore = Command::new("fincore");
    let ran = fincore
        .args(["--bytes", "--noheadings", "--output", "RES"])
        .arg(path)
        .output();
    String::from_utf8(ran.unwrap().stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

#[test]
fn reader_with_direct_io_leaves_nothing_in_the_page_cache_of_the_image() {
    needs_fuse!();
    let content = noise(3, 4 << 20);
    let fixture = Fixture::new(&Image::new(&[("large", &content)]));
    let open = |path: &Path, flags| OpenOptions::new().read(true).custom_flags(flags).open(path);
    let image = File::open(&fixture.image).unwrap();
    image.sync_all().unwrap();
    rustix::fs::fadvise(&image, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    if cached_bytes(&fixture.image) > 0 || open(&fixture.image, libc::O_DIRECT).is_err() {
        return skip(Lacks::Machine, "the temporary directory has no direct I/O");
    }
    fixture.mounted(&[]);
    let path = fixture.file("large");
    let mut buf = AlignedBuf::new(8192).unwrap();
    let before = cached_bytes(&fixture.image);
    let direct = open(&path, libc::O_DIRECT).unwrap();
    for offset in [3_u64 << 20, (3 << 20) + 40960, (4 << 20) - 4096] {
        direct.read_exact_at(&mut buf[..4096], offset).unwrap();
        let at = offset as usize;
        assert!(buf[..4096] == content[at..at + 4096], "{offset}");
    }
    // The file ends within this read.
    assert_eq!(direct.read_at(&mut buf, (4 << 20) - 4096).unwrap(), 4096);
    assert!(buf[..4096] == content[content.len() - 4096..]);
    assert_eq!(cached_bytes(&fixture.image), before);
    let cached = File::open(&path).unwrap();
    cached.read_exact_at(&mut buf[..4096], 3 << 20).unwrap();
    assert!(cached_bytes(&fixture.image) > before);
}
