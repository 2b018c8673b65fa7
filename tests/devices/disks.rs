//! Disks of the kinds that the tests need. Each is removed when it is dropped.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Image, Loop, check, noise, tree};

/// Names and contents: what a payload holds and what a destination must hold.
pub type Model = BTreeMap<String, Vec<u8>>;

/// Files of all sizes around block, sector and page limits, with unusual names.
pub fn awkward() -> Model {
    let sizes = [0, 1, 511, 512, 513, 4095, 4096, 4097];
    let kib = [65535, 65536, 65537];
    let mib = [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 17];
    let mut model: Model = sizes
        .iter()
        .chain(&kib)
        .chain(&mib)
        .enumerate()
        .map(|(seed, &size)| (format!("file of {size}"), noise(seed as u64, size)))
        .collect();
    let names = [
        "-rf",
        ".hidden",
        " a blank first",
        "naïve-ünïcode.tar.xz",
        "100% $HOME `x` 'y' \"z\"",
    ];
    for (seed, name) in names.iter().enumerate() {
        model.insert((*name).to_owned(), noise(100 + seed as u64, 700 + seed));
    }
    model.insert("x".repeat(255), noise(200, 70_000));
    model
}

/// The image of a model. Its entries are not in sorted order.
pub fn image(model: &Model) -> Image {
    let mut files: Vec<(&str, &[u8])> = model.iter().map(|(n, b)| (n.as_str(), &b[..])).collect();
    let middle = files.len() / 2;
    files.rotate_left(middle);
    Image::new(&files)
}

/// Asserts that `dir` holds the model and nothing else, not even a staging directory.
#[track_caller]
pub fn assert_holds(dir: &Path, model: &Model) {
    let found = tree(dir);
    let names = |list: Vec<&String>| list.into_iter().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(found.iter().map(|f| &f.0).collect()),
        names(model.keys().collect())
    );
    for ((name, is), should) in found.iter().zip(model.values()) {
        assert!(
            is == should,
            "{name}: {} bytes, others than the {} packed",
            is.len(),
            should.len()
        );
    }
}

/// A file in `dir` that starts with `bytes` and is `size` bytes long.
pub fn backing(dir: &Path, name: &str, bytes: &[u8], size: u64) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    assert!(
        size >= bytes.len() as u64,
        "the file is larger than the disk"
    );
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(size)
        .unwrap();
    path
}

/// A disk that starts with `bytes`: a loop device over `dir/name`, 8 MiB larger than
/// `bytes`.
pub fn disk(dir: &Path, name: &str, bytes: &[u8], sector: u32) -> Loop {
    let size = (bytes.len() as u64).next_multiple_of(4096) + (8 << 20);
    Loop::attach(&backing(dir, name, bytes, size), sector)
}

/// The last component of a path, as text.
pub fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Major and minor number of a device node.
pub fn number(path: &Path) -> (u64, u64) {
    let rdev = fs::metadata(path).unwrap().rdev();
    (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev))
}

/// The size of a block device in bytes, from sysfs.
pub fn size(path: &Path) -> u64 {
    let sectors = fs::read_to_string(format!("/sys/class/block/{}/size", name(path))).unwrap();
    sectors.trim().parse::<u64>().unwrap() * 512
}

/// The first bytes of a device, read with direct I/O.
pub fn first_bytes(path: &Path, len: usize) -> Vec<u8> {
    let block = 4096_usize;
    let out = Command::new("dd")
        .arg(format!("if={}", path.display()))
        .args([
            "iflag=direct,fullblock",
            "status=none",
            &format!("bs={block}"),
        ])
        .arg(format!("count={}", len.div_ceil(block)))
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    out.stdout[..len].to_vec()
}

/// A disk of 64 MiB with two partitions. The second one starts with the given bytes.
pub struct Partitioned {
    pub disk: Loop,
    pub first: PathBuf,
    pub second: PathBuf,
}

impl Partitioned {
    /// `label` is the partition table type as sfdisk names it: "gpt" or "dos".
    pub fn make(dir: &Path, label: &str, sector: u32, second: &[u8]) -> Self {
        let file = backing(dir, &format!("{label}-{sector}.img"), &[], 64 << 20);
        let disk = Loop::with(&file, &["--partscan", "--sector-size", &sector.to_string()]);
        let mut sfdisk = Command::new("sfdisk")
            .args(["--quiet", "--wipe", "never"])
            .arg(&disk.path)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("sfdisk of util-linux");
        let script = format!("label: {label}\nsize=8MiB\nsize=16MiB\n");
        sfdisk
            .stdin
            .take()
            .unwrap()
            .write_all(script.as_bytes())
            .unwrap();
        assert!(sfdisk.wait().unwrap().success());
        if !Path::new(&format!("/sys/class/block/{}p2", name(&disk.path))).exists() {
            // A kernel that cannot parse this table learns of the partitions from
            // partx.
            check(Command::new("partx").arg("--add").arg(&disk.path));
        }
        let part = |n| PathBuf::from(format!("{}p{n}", disk.path.display()));
        let this = Self {
            first: part(1),
            second: part(2),
            disk,
        };
        this.ensure_nodes();
        let mut node = OpenOptions::new().write(true).open(&this.second).unwrap();
        node.write_all(second).unwrap();
        node.sync_all().unwrap();
        this
    }

    /// Without udev, only devtmpfs creates the nodes.
    fn ensure_nodes(&self) {
        for path in [&self.first, &self.second] {
            if !path.exists() {
                let number =
                    fs::read_to_string(format!("/sys/class/block/{}/dev", name(path))).unwrap();
                let (major, minor) = number.trim().split_once(':').unwrap();
                check(Command::new("mknod").arg(path).args(["b", major, minor]));
            }
        }
    }
}

impl Drop for Partitioned {
    fn drop(&mut self) {
        for path in [&self.first, &self.second] {
            let _ = Command::new("delpart")
                .arg(&self.disk.path)
                .arg(&name(path)[name(path).len() - 1..])
                .status();
            let _ = fs::remove_file(path);
        }
    }
}

/// A loop device without a backing file, with a number that nothing else uses.
pub struct Unattached {
    pub path: PathBuf,
    number: libc::c_long,
}

impl Unattached {
    pub fn make() -> Self {
        let number = 4000 + (std::process::id() % 1000) as libc::c_long;
        let this = Self {
            path: PathBuf::from(format!("/dev/loop{number}")),
            number,
        };
        // LOOP_CTL_ADD
        this.control(0x4c80).expect("a loop device of that number");
        this
    }

    #[allow(unsafe_code)]
    fn control(&self, request: libc::Ioctl) -> std::io::Result<()> {
        use std::os::fd::AsRawFd;
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/loop-control")?;
        // SAFETY: the descriptor is open during the call, and the two requests made
        // here take a plain number and access no memory.
        let rc = unsafe { libc::ioctl(control.as_raw_fd(), request, self.number) };
        if rc < 0 {
            Err(std::io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

impl Drop for Unattached {
    fn drop(&mut self) {
        // LOOP_CTL_REMOVE
        let _ = self.control(0x4c81);
    }
}

/// Reads through the page cache, which keeps the data as long as the file stays open.
pub fn read_buffered(file: &File, len: usize) -> Vec<u8> {
    let mut buf = vec![0; len];
    file.read_exact_at(&mut buf, 0).unwrap();
    buf
}

/// The error when the device is opened, if there is one.
pub fn open_error(path: &Path) -> Option<std::io::Error> {
    let open = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    open.and_then(|mut f| f.read(&mut [0]).map(drop)).err()
}
