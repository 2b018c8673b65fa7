//! The properties of a device in udev's database, to help a person find the right disk.
//! They are optional: without udev, less is shown.

use std::path::Path;

/// Properties from udev's database.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Properties {
    /// The serial number of the drive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The type of medium, in the words of block-utils ("SolidState", "Rotational").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub medium: Option<String>,
    /// The file system that udev found on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<String>,
}

/// Returns the properties of the device at `path`, or `None` if udev is missing or has none.
#[cfg(feature = "udev")]
pub fn properties(path: &Path) -> Option<Properties> {
    let device = block_utils::get_device_info(path)
        .inspect_err(|e| log::debug!("udev knows nothing of {}: {e}", path.display()))
        .ok()?;
    let known = |text: String| (!text.is_empty() && text != "Unknown").then_some(text);
    let properties = Properties {
        serial: device.serial_number.and_then(known),
        medium: known(format!("{:?}", device.media_type)),
        filesystem: known(device.fs_type.to_str().to_owned()).filter(|fs| fs != "unknown"),
    };
    (properties != Properties::default()).then_some(properties)
}

/// Returns the properties of the device at `path`, or `None` if udev is missing or has none.
/// A build without libudev reads the database itself.
#[cfg(not(feature = "udev"))]
pub fn properties(path: &Path) -> Option<Properties> {
    let (major, minor) = super::node::number_of(path)?;
    let name = path.file_name()?;
    // libudev knows the devices in /sys. Those that udev has seen have a record too.
    if !Path::new("/sys/class/block").join(name).exists() {
        return None;
    }
    let record = format!("/run/udev/data/b{major}:{minor}");
    let text = std::fs::read(&record)
        .inspect_err(|e| log::debug!("udev has no record of {}: {e}", path.display()))
        .unwrap_or_default();
    parse(&name.to_string_lossy(), &String::from_utf8_lossy(&text))
}

/// Parses udev's record of the device `name`. A line `E:KEY=VALUE` is a property. The properties
/// are given the meaning that block-utils gives them.
#[cfg(any(test, not(feature = "udev")))]
fn parse(name: &str, record: &str) -> Option<Properties> {
    let property = |key: &str| {
        let mut lines = record.lines().filter_map(|line| line.strip_prefix("E:"));
        lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    };
    let known = |text: &str| (!text.is_empty() && text != "Unknown").then(|| text.to_owned());
    let is_numbered = |prefix: &str| {
        let rest = name.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let medium = if is_numbered("loop") {
        Some("Loopback")
    } else if is_numbered("ram") || is_numbered("zram") {
        Some("Ram")
    } else if is_numbered("md") {
        Some("MdRaid")
    } else if name.contains("nvme") {
        Some("NVME")
    } else if property("DM_NAME").is_some() {
        Some("LVM")
    } else if let Some(rotations) = property("ID_ATA_ROTATION_RATE_RPM") {
        Some(match rotations {
            "0" => "SolidState",
            _ => "Rotational",
        })
    } else {
        (property("ID_VENDOR") == Some("QEMU")).then_some("Virtual")
    };
    let properties = Properties {
        serial: property("ID_SERIAL").and_then(known),
        medium: medium.map(str::to_owned),
        filesystem: property("ID_FS_TYPE")
            .and_then(known)
            .filter(|fs| fs != "unknown"),
    };
    (properties != Properties::default()).then_some(properties)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(name: &str, record: &str) -> Option<[Option<String>; 3]> {
        parse(name, record).map(|p| [p.serial, p.medium, p.filesystem])
    }

    #[test]
    fn a_record_has_the_properties_in_lines_that_begin_with_e() {
        let record = "S:disk/by-id/ata-x\nI:17\nE:ID_SERIAL=Samsung_SSD=1\nE:ID_SERIAL_SHORT=1\n\
                      E:ID_ATA_ROTATION_RATE_RPM=0\nE:ID_FS_TYPE=ext4\nG:systemd\n";
        let some = |text: &str| Some(text.to_owned());
        let disk = [some("Samsung_SSD=1"), some("SolidState"), some("ext4")];
        assert_eq!(words("sda", record), Some(disk));
        assert_eq!(
            words("sdb", "I:1\nE:ID_ATA_ROTATION_RATE_RPM=7200\n"),
            Some([None, some("Rotational"), None])
        );
        assert_eq!(words("sdc", "I:1\nE:ID_SERIAL=\nE:ID_FS_TYPE=\n"), None);
        assert_eq!(words("sdd", ""), None);
    }

    #[test]
    fn the_name_of_a_device_tells_its_medium() {
        for (name, record, medium) in [
            ("loop0", "", "Loopback"),
            ("ram1", "", "Ram"),
            ("md127", "", "MdRaid"),
            ("nvme0n1", "", "NVME"),
            ("dm-0", "E:DM_NAME=vg-root\n", "LVM"),
            ("sda", "E:ID_VENDOR=QEMU\n", "Virtual"),
        ] {
            let found = words(name, record).and_then(|[_, medium, _]| medium);
            assert_eq!(found.as_deref(), Some(medium), "{name}");
        }
        assert_eq!(words("loop-control", "E:ID_VENDOR=ATA\n"), None);
    }
}
