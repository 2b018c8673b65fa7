//! What udev knows of a device, for a person who looks for the right disk.
//! Never needed: a machine without udev, or a build without it, only shows less.

use std::path::Path;

/// Properties from udev's database.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Properties {
    /// The serial number of the drive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The sort of medium, in block-utils' words ("SolidState", "Rotational").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub medium: Option<String>,
    /// The file system that udev saw on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<String>,
}

/// What udev knows of the device at `path`; `None` without udev, or where it
/// knows nothing.
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

/// Built without udev: nothing is known.
#[cfg(not(feature = "udev"))]
pub fn properties(_path: &Path) -> Option<Properties> {
    None
}
