//! Recognizes what a device holds by magic bytes: file systems, volumes, RAID members and
//! partition tables. The places are those that libblkid and the kernel look at.

/// Where the magic bytes of a format are.
#[derive(Debug, Clone, Copy)]
enum At {
    /// That many bytes after the start of the device.
    Start(u64),
    /// That many bytes before the end of the device.
    End(u64),
    /// In the last whole block of 64 KiB that has 64 KiB before the end (md 0.90).
    Last64K,
    /// At least 8 KiB before the end, at a multiple of 4 KiB (md 1.0).
    Last8K,
}

use At::{End, Last8K, Last64K, Start};

impl At {
    /// Returns the offset on a device of `size` bytes, if the device is large enough.
    fn offset(self, size: u64) -> Option<u64> {
        match self {
            Start(offset) => Some(offset),
            End(distance) => size.checked_sub(distance),
            Last64K => (size & !0xffff).checked_sub(0x1_0000),
            Last8K => Some(size.checked_sub(8192)? & !0xfff),
        }
    }
}

/// The magic bytes of a format.
struct Magic {
    kind: &'static str,
    bytes: &'static [u8],
    at: &'static [At],
    /// The place of the label, as offset from the start of the device and length.
    label: Option<(u64, usize)>,
}

const fn magic(kind: &'static str, bytes: &'static [u8], at: &'static [At]) -> Magic {
    Magic {
        kind,
        bytes,
        at,
        label: None,
    }
}

const fn labelled(
    kind: &'static str,
    bytes: &'static [u8],
    at: &'static [At],
    label: (u64, usize),
) -> Magic {
    Magic {
        kind,
        bytes,
        at,
        label: Some(label),
    }
}

/// The end of the first page, for pages of 4 KiB to 64 KiB.
const SWAP: &[At] = &[
    Start(4086),
    Start(8182),
    Start(16_374),
    Start(32_758),
    Start(65_526),
];
const BTRFS: &[At] = &[
    Start(0x1_0040),
    Start((64 << 20) + 0x40),
    Start((256 << 30) + 0x40),
];
/// The second header of LUKS 2, at the places that depend on the size of the first.
const LUKS2: &[At] = &[
    Start(0x4000),
    Start(0x8000),
    Start(0x1_0000),
    Start(0x2_0000),
    Start(0x4_0000),
    Start(0x8_0000),
    Start(0x10_0000),
    Start(0x20_0000),
    Start(0x40_0000),
];
const MD: &[At] = &[Last64K, Last8K, Start(0), Start(4096)];
const GPT: &[At] = &[Start(512), Start(4096), End(512), End(4096)];
const ISO: &[At] = &[Start(0x8001), Start(0x8801), Start(0x9001)];

const MAGICS: &[Magic] = &[
    magic(PAYLOAD, b"LBPAYLD1", &[Start(0)]),
    magic("GPT partition table", b"EFI PART", GPT),
    labelled(EXT, b"\x53\xef", &[Start(0x438)], (0x478, 16)),
    labelled("xfs", b"XFSB", &[Start(0)], (108, 12)),
    labelled("btrfs", b"_BHRfS_M", BTRFS, (0x1_012b, 256)),
    labelled("swap", b"SWAPSPACE2", SWAP, (0x41c, 16)),
    magic("swap", b"SWAP-SPACE", SWAP),
    magic("hibernated system", b"S1SUSPEND", SWAP),
    magic("hibernated system", b"S2SUSPEND", SWAP),
    magic("hibernated system", b"ULSUSPEND", SWAP),
    magic("hibernated system", b"LINHIB0001", SWAP),
    magic(
        "LVM physical volume",
        b"LABELONE",
        &[Start(0), Start(512), Start(1024), Start(1536)],
    ),
    magic("Linux RAID member", b"\xfc\x4e\x2b\xa9", MD),
    magic("Linux RAID member", b"\xa9\x2b\x4e\xfc", MD),
    magic("LUKS", b"LUKS\xba\xbe", &[Start(0)]),
    magic("LUKS", b"SKUL\xba\xbe", LUKS2),
    labelled("vfat", b"FAT32   ", &[Start(0x52)], (0x47, 11)),
    labelled("vfat", b"FAT16   ", &[Start(0x36)], (0x2b, 11)),
    labelled("vfat", b"FAT12   ", &[Start(0x36)], (0x2b, 11)),
    magic("exfat", b"EXFAT   ", &[Start(3)]),
    magic("ntfs", b"NTFS    ", &[Start(3)]),
    magic("BitLocker", b"-FVE-FS-", &[Start(3)]),
    labelled("iso9660", b"CD001", ISO, (0x8028, 32)),
    magic("udf", b"NSR02", ISO),
    magic("udf", b"NSR03", ISO),
    magic("udf", b"BEA01", ISO),
    magic("squashfs", b"hsqs", &[Start(0)]),
    magic("squashfs", b"sqsh", &[Start(0)]),
    magic("erofs", b"\xe2\xe1\xf5\xe0", &[Start(1024)]),
    magic("cramfs", b"\x45\x3d\xcd\x28", &[Start(0)]),
    magic("romfs", b"-rom1fs-", &[Start(0)]),
    magic("f2fs", b"\x10\x20\xf5\xf2", &[Start(1024), Start(5120)]),
    magic("nilfs2", b"\x34\x34", &[Start(0x406)]),
    magic("jfs", b"JFS1", &[Start(0x8000)]),
    magic("reiserfs", b"ReIsEr", &[Start(0x1_0034), Start(0x2034)]),
    magic("gfs2", b"\x01\x16\x19\x70", &[Start(0x1_0000)]),
    magic("ocfs2", b"OCFSV2", &[Start(1024), Start(2048), Start(4096)]),
    magic("hfsplus", b"H+\0\x04", &[Start(1024)]),
    magic("apfs", b"NXSB", &[Start(32)]),
    magic(
        "bcache",
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
        &[Start(4120)],
    ),
    magic(
        "bcachefs",
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
        &[Start(4120)],
    ),
    magic("VMFS", b"\x0d\xd0\x01\xc0", &[Start(1 << 20)]),
    magic("VMFS", b"\x5e\xf1\xab\x2f", &[Start(2 << 20)]),
    magic(
        "BIOS RAID member",
        b"Intel Raid ISM Cfg Sig. ",
        &[End(1024)],
    ),
    magic(
        "BIOS RAID member",
        b"\xde\x11\xde\x11",
        &[End(512), End(257 * 512)],
    ),
    magic("BIOS RAID member", b"\x11\xde\x11\xde", &[End(512)]),
    magic("BIOS RAID member", b"NVIDIA", &[End(1024)]),
    magic("BIOS RAID member", b"$XIDE$", &[End(512)]),
];

const PAYLOAD: &str = "LBPAYLD1 payload";
const EXT: &str = "ext2";
const MBR: &str = "MBR partition table";

/// Something that a device holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// What it is, in the words of blkid where it has one.
    pub(super) kind: &'static str,
    /// The label of the file system, if it has one.
    pub(super) label: Option<String>,
    /// Where its magic bytes are, in bytes from the start of the device.
    pub(super) at: u64,
    /// The number of its magic bytes.
    pub(super) len: usize,
}

/// Finds everything whose magic bytes are on a device of `size` bytes. A format with several
/// copies is found several times.
///
/// `read` returns the bytes at an offset, or `None` if they cannot be read.
pub(super) fn detect(size: u64, read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> Vec<Found> {
    let mut found = Vec::new();
    for magic in MAGICS {
        for at in magic.at {
            let len = magic.bytes.len();
            let Some(offset) = at.offset(size).filter(|at| at + len as u64 <= size) else {
                continue;
            };
            if read(offset, len).as_deref() == Some(magic.bytes) {
                found.push(Found {
                    kind: magic.kind,
                    label: magic.label.and_then(|(at, len)| text(&read(at, len)?)),
                    at: offset,
                    len,
                });
            }
        }
    }
    for found in found.iter_mut().filter(|found| found.kind == EXT) {
        found.kind = ext_version(read);
    }
    found.extend(zfs(size, read));
    if let Some(mbr) = mbr(&found, read) {
        found.push(mbr);
    }
    found
}

/// Returns which of ext2, ext3 and ext4 a superblock belongs to.
fn ext_version(read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> &'static str {
    let features = read(0x45c, 12).unwrap_or_default();
    let [compat, incompat, read_only] = [0, 4, 8].map(|at| {
        let bytes = features.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    });
    // What ext3 knows: of incompat the file types, recovery, a journal device and meta block
    // groups, of ro_compat sparse superblocks, large files and trees of directories.
    if incompat & !0x1e != 0 || read_only & !0x7 != 0 {
        "ext4"
    } else if compat & 0x4 != 0 {
        "ext3"
    } else {
        EXT
    }
}

/// Finds ZFS by an uberblock in one of the four labels: two at the start and two at the end.
fn zfs(size: u64, read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<Found> {
    const LABEL: u64 = 256 << 10;
    let end = size & !(LABEL - 1);
    let labels = [
        Some(0),
        Some(LABEL),
        end.checked_sub(2 * LABEL),
        end.checked_sub(LABEL),
    ];
    for label in labels.into_iter().flatten() {
        // 128 KiB of uberblocks, of 1 KiB or more each.
        let ring = label + LABEL / 2;
        let Some(bytes) = read(ring, (LABEL / 2) as usize) else {
            continue;
        };
        let is_uberblock = |block: &[u8]| {
            block.starts_with(b"\x0c\xb1\xba\0\0\0\0\0")
                || block.starts_with(b"\0\0\0\0\0\xba\xb1\x0c")
        };
        if let Some(n) = bytes.chunks(1024).position(is_uberblock) {
            return Some(Found {
                kind: "zfs",
                label: None,
                at: ring + n as u64 * 1024,
                len: 8,
            });
        }
    }
    None
}

/// Finds a partition table in the boot sector. The boot sectors of FAT and NTFS end with the
/// same bytes, and so does the sector that protects a GPT.
fn mbr(found: &[Found], read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<Found> {
    let other = ["vfat", "exfat", "ntfs", "BitLocker", PAYLOAD];
    let sector = read(0, 512)?;
    let entries = || sector[446..510].chunks(16);
    let is_table = sector.ends_with(b"\x55\xaa")
        && entries().all(|entry| entry[0] & 0x7f == 0)
        && entries().any(|entry| entry[4] != 0 && entry[4] != 0xee)
        && !found.iter().any(|found| other.contains(&found.kind));
    is_table.then_some(Found {
        kind: MBR,
        label: None,
        at: 510,
        len: 2,
    })
}

/// Returns a label that ends with zeros or blanks, if it is text.
fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let label = std::str::from_utf8(&bytes[..end]).ok()?.trim();
    // mkfs.vfat writes this where no label was given.
    (!label.is_empty() && label != "NO NAME").then(|| label.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 300 << 30;

    /// Detects in a device of `size` bytes that holds only these pieces.
    fn kinds(size: u64, pieces: &[(u64, &[u8])]) -> Vec<(&'static str, u64)> {
        let mut read = |at: u64, len: usize| {
            let mut bytes = vec![0; len];
            for (start, piece) in pieces {
                for (n, byte) in piece.iter().enumerate() {
                    if let Some(n) = (start + n as u64).checked_sub(at) {
                        if let Some(place) = bytes.get_mut(n as usize) {
                            *place = *byte;
                        }
                    }
                }
            }
            (at + len as u64 <= size).then_some(bytes)
        };
        let found = detect(size, &mut read);
        found.iter().map(|found| (found.kind, found.at)).collect()
    }

    #[test]
    fn every_row_of_the_table_is_found_at_each_of_its_places() {
        for magic in MAGICS.iter().filter(|magic| magic.kind != EXT) {
            for at in magic.at {
                let offset = at.offset(SIZE).unwrap();
                let found = kinds(SIZE, &[(offset, magic.bytes)]);
                assert!(found.contains(&(magic.kind, offset)), "{}", magic.kind);
            }
        }
    }

    #[test]
    fn places_at_the_end_follow_the_rules_of_each_format() {
        let odd = (64 << 20) + 5 * 512;
        assert_eq!(Last64K.offset(odd), Some((64 << 20) - (64 << 10)));
        assert_eq!(Last8K.offset(odd), Some((64 << 20) - 8192));
        assert_eq!(End(512).offset(odd), Some(odd - 512));
        for at in [Last64K, Last8K, End(4096)] {
            assert_eq!(at.offset(1000), None);
        }
    }

    #[test]
    fn ext_file_systems_differ_by_their_features() {
        for (features, kind) in [
            ([0_u32, 2, 3], "ext2"),
            ([4, 6, 3], "ext3"),
            ([0x3c, 0x2c2, 0x46b], "ext4"),
        ] {
            let features: Vec<u8> = features.iter().flat_map(|f| f.to_le_bytes()).collect();
            let pieces: &[(u64, &[u8])] = &[(0x438, b"\x53\xef"), (0x45c, &features)];
            assert_eq!(kinds(SIZE, pieces), [(kind, 0x438)]);
        }
    }

    #[test]
    fn a_partition_table_is_told_from_other_boot_sectors() {
        let entry = [0x80, 0, 0, 0, 0x83];
        let table: &[(u64, &[u8])] = &[(446, &entry), (510, b"\x55\xaa")];
        assert_eq!(kinds(SIZE, table), [(MBR, 510)]);
        assert_eq!(kinds(SIZE, &[(510, b"\x55\xaa")]), []);
        let fat: &[(u64, &[u8])] = &[(0x52, b"FAT32   "), (446, &entry), (510, b"\x55\xaa")];
        assert_eq!(kinds(SIZE, fat), [("vfat", 0x52)]);
        let protective = [0, 0, 0, 0, 0xee];
        let gpt: &[(u64, &[u8])] = &[(446, &protective), (510, b"\x55\xaa"), (512, b"EFI PART")];
        assert_eq!(kinds(SIZE, gpt), [("GPT partition table", 512)]);
    }

    #[test]
    fn zfs_is_found_by_any_of_its_labels() {
        for label in [0, 256 << 10, SIZE - (512 << 10), SIZE - (256 << 10)] {
            let at = label + (128 << 10) + 3 * 1024;
            assert_eq!(
                kinds(SIZE, &[(at, b"\x0c\xb1\xba\0\0\0\0\0")]),
                [("zfs", at)]
            );
        }
    }

    #[test]
    fn a_device_of_any_size_is_searched_within_its_bounds() {
        for size in [0, 1, 511, 512, 4096, 10_000, 1 << 20] {
            assert_eq!(kinds(size, &[]), []);
        }
    }

    #[test]
    fn a_label_is_shown_only_if_it_is_text() {
        assert_eq!(text(b"BOOT       ").as_deref(), Some("BOOT"));
        assert_eq!(text(b"photos\0\0garbage").as_deref(), Some("photos"));
        for none in [&b"\0\0\0"[..], b"   ", b"NO NAME    ", b"\xff\xfe"] {
            assert_eq!(text(none), None);
        }
    }
}
