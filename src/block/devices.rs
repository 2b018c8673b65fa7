//! Lists the machine's block devices: from /sys/class/block, else from /proc/partitions,
//! else from the nodes in /dev.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::device::{Device, DeviceKind, kind_by_name};
use super::node::{Node, Nodes, number_of};
use crate::error::{Error, Kind, Result};

/// The directories to search. Tests use others.
#[derive(Debug, Clone)]
pub struct Roots {
    /// Usually /sys.
    pub sys: PathBuf,
    /// Usually /proc.
    pub proc: PathBuf,
    /// Usually /dev.
    pub dev: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            proc: "/proc".into(),
            dev: "/dev".into(),
        }
    }
}

/// The block devices of a machine.
#[derive(Debug)]
pub struct Devices {
    list: Vec<Device>,
    from: &'static str,
    nodes: Nodes,
}

impl Devices {
    /// Lists all block devices, ordered by major and minor number.
    ///
    /// # Errors
    /// None of /sys, /proc/partitions and /dev can be read.
    pub fn scan(roots: &Roots) -> Result<Self> {
        let nodes = Nodes::scan(&roots.dev);
        let (mut list, from) = match from_sys(&roots.sys) {
            Ok(list) if !list.is_empty() => (list, "/sys/class/block"),
            _ => match fs::read_to_string(roots.proc.join("partitions")) {
                Ok(text) => (parse_partitions(&text), "/proc/partitions"),
                Err(e) => {
                    let list = from_nodes(&roots.dev, &nodes);
                    if list.is_empty() {
                        return Err(Error::io("list block devices in", e)
                            .with_path(roots.proc.join("partitions"))
                            .with_code("no-devices")
                            .advice("mount /sys or /proc, or name the device"));
                    }
                    (list, "/dev")
                }
            },
        };
        list.sort_by_key(|d| (d.major, d.minor));
        log::info!("{} block devices, from {from}", list.len());
        Ok(Self { list, from, nodes })
    }

    /// Lists the devices in /proc/partitions in its order, as the reference importer does.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn from_proc(roots: &Roots) -> Result<Self> {
        let path = roots.proc.join("partitions");
        let text = fs::read_to_string(&path).map_err(|e| Error::io("read", e).with_path(&path))?;
        Ok(Self {
            list: parse_partitions(&text),
            from: "/proc/partitions",
            nodes: Nodes::scan(&roots.dev),
        })
    }

    /// Lists the nodes in /dev, whether or not the kernel lists these devices.
    pub fn from_dev(roots: &Roots) -> Self {
        let nodes = Nodes::scan(&roots.dev);
        let mut list = from_nodes(&roots.dev, &nodes);
        list.sort_by_key(|d| (d.major, d.minor));
        Self {
            list,
            from: "/dev",
            nodes,
        }
    }

    /// Returns the devices.
    pub fn iter(&self) -> impl Iterator<Item = &Device> {
        self.list.iter()
    }

    /// Returns the name of the listing that the devices come from.
    pub fn from(&self) -> &'static str {
        self.from
    }

    /// Returns the device with this number.
    pub fn by_number(&self, major: u32, minor: u32) -> Option<&Device> {
        self.list
            .iter()
            .find(|d| (d.major, d.minor) == (major, minor))
    }

    /// Returns a device that shows the data of the device at `path`, if /sys lists one.
    pub fn stacked_on(&self, path: &Path) -> Option<&Device> {
        let (major, minor) = number_of(path)?;
        let lower = self.by_number(major, minor)?;
        self.iter().find(|upper| upper.lower.contains(&lower.name))
    }

    /// Returns the node through which `device` can be opened. A missing node is created.
    ///
    /// # Errors
    /// There is no node and none can be created.
    pub fn node(&self, device: &Device) -> Result<Node> {
        self.nodes.find_or_make(device)
    }
}

fn from_sys(sys: &Path) -> io::Result<Vec<Device>> {
    let mut list = Vec::new();
    for entry in fs::read_dir(sys.join("class/block"))? {
        let entry = entry?;
        match sys_device(&entry.path(), &entry.file_name().to_string_lossy()) {
            Some(device) => list.push(device),
            // A device may disappear during the scan.
            None => log::debug!("{}: gone, or no number", entry.path().display()),
        }
    }
    Ok(list)
}

fn sys_device(dir: &Path, sys_name: &str) -> Option<Device> {
    let read = |file: &str| Some(fs::read_to_string(dir.join(file)).ok()?.trim().to_owned());
    let number = read("dev")?;
    let (major, minor) = number.split_once(':')?;
    // sysfs names cannot contain a slash, so it writes ! instead.
    let name = sys_name.replace('!', "/");
    let is_partition = dir.join("partition").exists();
    let mut lower: Vec<String> = fs::read_dir(dir.join("slaves"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().replace('!', "/"))
        .collect();
    if is_partition && read("start").as_deref() == Some("0") {
        let parent = fs::canonicalize(dir)
            .ok()?
            .parent()?
            .file_name()?
            .to_string_lossy()
            .into_owned();
        lower.push(parent.replace('!', "/"));
    }
    let backing = read("loop/backing_file").map(|file| {
        let offset = read("loop/offset")
            .and_then(|s| s.parse().ok())
            .unwrap_or(0);
        (PathBuf::from(file), offset)
    });
    if let Some((file, 0)) = &backing {
        if let Ok(below) = file.strip_prefix("/dev") {
            lower.push(below.to_string_lossy().into_owned());
        }
    }
    lower.sort();
    let kind = if is_partition {
        DeviceKind::Partition
    } else {
        kind_by_name(&name)
    };
    Some(Device {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        kind,
        // In units of 512 bytes, whatever the device's block size is (sysfs-block).
        size_bytes: read("size").and_then(|s| s.parse::<u64>().ok()?.checked_mul(512)),
        lower,
        backing,
        name,
    })
}

/// Parses /proc/partitions: `major minor #blocks name`, in blocks of 1024 bytes.
/// Other lines, such as the heading, are skipped.
fn parse_partitions(text: &str) -> Vec<Device> {
    let rows = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let major = words.next()?.parse().ok()?;
        let minor = words.next()?.parse().ok()?;
        let blocks: u64 = words.next()?.parse().ok()?;
        Some((
            major,
            minor,
            blocks.checked_mul(1024),
            words.next()?.to_owned(),
        ))
    });
    by_names(rows.collect())
}

fn from_nodes(dev: &Path, nodes: &Nodes) -> Vec<Device> {
    let rows = nodes.all().map(|(&(major, minor), path)| {
        let name = path
            .strip_prefix(dev)
            .unwrap_or(path)
            .to_string_lossy()
            .into_owned();
        (major, minor, None, name)
    });
    by_names(rows.collect())
}

/// Creates devices of which only number, name and perhaps size are known.
fn by_names(rows: Vec<(u32, u32, Option<u64>, String)>) -> Vec<Device> {
    let names: Vec<String> = rows.iter().map(|row| row.3.clone()).collect();
    rows.into_iter()
        .map(|(major, minor, size_bytes, name)| Device {
            kind: if names.iter().any(|disk| is_partition_name(&name, disk)) {
                DeviceKind::Partition
            } else {
                kind_by_name(&name)
            },
            name,
            major,
            minor,
            size_bytes,
            lower: Vec::new(),
            backing: None,
        })
        .collect()
}

/// Returns whether `name` is the kernel's name for a partition of `disk`: the disk's name
/// and digits, with a `p` between them if the disk's name ends in a digit.
fn is_partition_name(name: &str, disk: &str) -> bool {
    let Some(rest) = name.strip_prefix(disk) else {
        return false;
    };
    let digits = if disk.ends_with(|c: char| c.is_ascii_digit()) {
        rest.strip_prefix('p').unwrap_or("")
    } else {
        rest
    };
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// Mounts /proc if /proc/partitions does not exist, like `--mount-proc` of the reference
/// importer.
///
/// # Errors
/// /proc cannot be mounted, or is mounted and has no `partitions`.
pub fn mount_proc() -> Result<()> {
    let partitions = Path::new("/proc/partitions");
    if partitions.exists() {
        return Ok(());
    }
    match fs::create_dir("/proc") {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::io("make", e).with_path("/proc"));
        }
        _ => {}
    }
    nix::mount::mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .map_err(|e| Error::io("mount", e.into()).with_path("/proc"))?;
    if partitions.exists() {
        Ok(())
    } else {
        Err(
            Error::new(Kind::NotFound, "not found, although /proc is mounted")
                .with_path(partitions),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_partitions_gives_numbers_sizes_and_kinds() {
        let text = "major minor  #blocks  name\n\n   8        0      1024 sda\n   \
                    8        1       512 sda1\n 259        0  4 nvme0n1\n 259 1 2 nvme0n1p1\n   \
                    7 0 0 loop0\n 253 0 9 dm-0\n 11 0 8 sr0\n 9 127 1 md127\n";
        let list = parse_partitions(text);
        let seen: Vec<_> = list.iter().map(|d| (d.name.as_str(), d.kind)).collect();
        use DeviceKind::*;
        assert_eq!(
            seen,
            [
                ("sda", Disk),
                ("sda1", Partition),
                ("nvme0n1", Disk),
                ("nvme0n1p1", Partition),
                ("loop0", Loop),
                ("dm-0", Dm),
                ("sr0", Other),
                ("md127", Md)
            ]
        );
        assert_eq!(list[0].size_bytes, Some(1 << 20));
        assert_eq!((list[3].major, list[3].minor), (259, 1));
    }

    #[test]
    fn a_name_with_a_number_is_a_partition_only_if_the_disk_is_listed() {
        assert!(is_partition_name("sda12", "sda"));
        assert!(is_partition_name("loop0p1", "loop0"));
        assert!(!is_partition_name("loop01", "loop0"));
        assert!(!is_partition_name("sdaa", "sda"));
        assert!(!is_partition_name("sda", "sda"));
    }

    #[test]
    fn the_lower_devices_are_read_from_sysfs() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join("class/block").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("sda/dev", "8:0\n");
        put("sda/size", "2048\n");
        put("dm-3/dev", "253:3\n");
        put("dm-3/slaves/sda/x", "");
        put("loop7/dev", "7:7\n");
        put("loop7/loop/backing_file", "/dev/sda\n");
        put("loop7/loop/offset", "0\n");
        put("cciss!c0d0/dev", "104:0\n");
        let roots = Roots {
            sys: dir.path().into(),
            proc: dir.path().join("none"),
            dev: dir.path().join("none"),
        };
        let devices = Devices::scan(&roots).unwrap();
        let get = |name: &str| devices.iter().find(|d| d.name == name).unwrap();
        assert_eq!(get("sda").size_bytes, Some(1 << 20));
        assert_eq!(get("dm-3").lower, ["sda"]);
        assert_eq!(get("loop7").lower, ["sda"]);
        assert_eq!(get("cciss/c0d0").kind, DeviceKind::Disk);
    }
}
