//! The properties of a device in udev's database, to help a person find the right disk.
//! They are optional: without udev, at run time or at build time, less is shown.

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

/// Always returns `None`: this program was built without udev.
#[cfg(not(feature = "udev"))]
pub fn properties(_path: &Path) -> Option<Properties> {
    None
}
