//! Reads what a kernel module says about itself: the section `.modinfo` of its ELF file.

use std::fs::File;
use std::io::{self, BufReader, Read};

use super::compression::{Limited, split_suffix};

/// The size in bytes of the largest module that is read, decompressed. With debug information, a
/// module can have some hundred MiB.
const MAX_MODULE: u64 = 512 << 20;

/// The size in bytes of an ELF header and of a section header, for 64 bits.
const HEADER: usize = 64;

/// The section `.modinfo` of a module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Modinfo {
    /// The keys and values, in the order of the file.
    pub(crate) fields: Vec<(String, String)>,
}

impl Modinfo {
    /// Reads the module in `file`, which is compressed if `name` says so.
    ///
    /// # Errors
    /// InvalidData if it is not a module, and the errors of the file and of the decompression.
    pub(crate) fn read(name: &str, file: &File) -> io::Result<Self> {
        let mut bytes = Vec::new();
        Limited::new(open(name, file)?, MAX_MODULE).read_to_end(&mut bytes)?;
        Self::parse(&bytes)
    }

    /// Parses an uncompressed module.
    pub(crate) fn parse(bytes: &[u8]) -> io::Result<Self> {
        let section = section(bytes, b".modinfo").map_err(|what| {
            let message = format!("it is not a kernel module ({what})");
            io::Error::new(io::ErrorKind::InvalidData, message)
        })?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let field = |line: &[u8]| {
            let equals = line.iter().position(|byte| *byte == b'=')?;
            Some((text(&line[..equals]), text(&line[equals + 1..])))
        };
        Ok(Self {
            fields: section.split(|byte| *byte == 0).filter_map(field).collect(),
        })
    }

    /// Returns the kernel that the module is built for: the release, and the settings that must
    /// be the same.
    pub(crate) fn vermagic(&self) -> Option<&str> {
        self.values("vermagic").next()
    }

    /// Returns the names of the modules that it needs.
    pub(crate) fn depends(&self) -> impl Iterator<Item = &str> {
        let names = self.values("depends").flat_map(|names| names.split(','));
        names.filter(|name| !name.is_empty())
    }

    fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let of = self.fields.iter().filter(move |(name, _)| name == key);
        of.map(|(_, value)| value.as_str())
    }
}

/// Returns a reader of the module in `file`, decompressed if `name` says that it is compressed.
pub(super) fn open<'a>(name: &str, file: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    match split_suffix(name).1 {
        Some(compression) => compression.decode(BufReader::new(file)),
        None => Ok(Box::new(file)),
    }
}

/// Returns the first section of an ELF file with that name.
fn section<'a>(bytes: &'a [u8], name: &[u8]) -> Result<&'a [u8], &'static str> {
    if !bytes.starts_with(b"\x7fELF") {
        return Err("no ELF file");
    }
    // The class and the byte order.
    if bytes.get(4..6) != Some(&[2, 1]) {
        return Err("not for a little-endian processor of 64 bits");
    }
    let cut_off = "cut off or with wrong sizes";
    let header = bytes.get(..HEADER).ok_or(cut_off)?;
    if short(header, 0x3a) != HEADER {
        return Err("unknown section headers");
    }
    let table = usize::try_from(long(header, 0x28)).map_err(|_| cut_off)?;
    let table = bytes.get(table..).ok_or(cut_off)?;
    let at = |index: usize| table.get(index * HEADER..(index + 1) * HEADER);
    let (mut count, mut names) = (short(header, 0x3c), short(header, 0x3e));
    // With 65,280 sections or more, these numbers are in the first section header.
    let first = at(0).ok_or(cut_off)?;
    if count == 0 {
        count = usize::try_from(long(first, 0x20)).map_err(|_| cut_off)?;
    }
    if names == 0xffff {
        names = word(first, 0x28);
    }
    let sections = count
        .checked_mul(HEADER)
        .and_then(|length| table.get(..length))
        .ok_or(cut_off)?;
    if names >= count {
        return Err(cut_off);
    }
    let content = |section: &[u8]| {
        let start = usize::try_from(long(section, 0x18)).ok()?;
        let length = usize::try_from(long(section, 0x20)).ok()?;
        bytes.get(start..start.checked_add(length)?)
    };
    let strings = at(names).and_then(content).ok_or(cut_off)?;
    let is_named = |section: &&[u8]| {
        let rest = strings.get(word(section, 0)..);
        let rest = rest.and_then(|rest| rest.strip_prefix(name));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    };
    let found = sections.chunks_exact(HEADER).find(is_named);
    let found = found.ok_or("no section .modinfo")?;
    // A section of this type, SHT_NOBITS, has no bytes in the file.
    if word(found, 4) == 8 {
        return Err("no section .modinfo");
    }
    content(found).ok_or(cut_off)
}

fn short(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn word(bytes: &[u8], at: usize) -> usize {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word) as usize
}

fn long(bytes: &[u8], at: usize) -> u64 {
    let mut long = [0; 8];
    long.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(long)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module with `info` as its section `.modinfo`.
    fn module(info: &[&str]) -> Vec<u8> {
        let info: Vec<u8> = info
            .iter()
            .flat_map(|line| [line.as_bytes(), &[0]].concat())
            .collect();
        let names = b"\0.shstrtab\0.modinfo\0";
        let mut out = vec![0; HEADER];
        out[..6].copy_from_slice(b"\x7fELF\x02\x01");
        out.extend(&info);
        out.extend(names);
        let table = out.len() as u64;
        out[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        for (at, value) in [(0x3a, HEADER as u8), (0x3c, 3), (0x3e, 1)] {
            out[at] = value;
        }
        let strings = HEADER + info.len();
        for (name, start, length) in [
            (0, 0, 0),
            (1, strings, names.len()),
            (11, HEADER, info.len()),
        ] {
            let mut section = [0; HEADER];
            section[0] = name;
            section[0x18..0x20].copy_from_slice(&(start as u64).to_le_bytes());
            section[0x20..0x28].copy_from_slice(&(length as u64).to_le_bytes());
            out.extend(section);
        }
        out
    }

    const INFO: [&str; 4] = [
        "license=GPL",
        "depends=a,b_c",
        "",
        "vermagic=6.8.12-tegra SMP",
    ];

    #[test]
    fn fields_are_read_in_order() {
        let info = Modinfo::parse(&module(&INFO)).unwrap();
        assert_eq!(info.fields.len(), 3);
        assert_eq!(info.vermagic(), Some("6.8.12-tegra SMP"));
        assert_eq!(info.depends().collect::<Vec<_>>(), ["a", "b_c"]);
        let none = Modinfo::parse(&module(&["depends="])).unwrap();
        assert_eq!((none.depends().count(), none.vermagic()), (0, None));
    }

    #[test]
    fn a_module_that_is_cut_off_anywhere_is_an_error() {
        let bytes = module(&INFO);
        for end in 0..bytes.len() {
            let error = Modinfo::parse(&bytes[..end]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{end}");
        }
    }

    #[test]
    fn a_flipped_bit_or_a_wrong_byte_never_panics() {
        let bytes = module(&INFO);
        for at in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            let _ = Modinfo::parse(&bytes);
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            for byte in bytes.iter_mut().skip(at).take(8) {
                *byte = 0xff;
            }
            let _ = Modinfo::parse(&bytes);
        }
    }

    #[test]
    fn other_files_are_not_modules() {
        for (bytes, what) in [
            (&b""[..], "no ELF file"),
            (b"\x7fELF\x01\x01", "not for a little-endian processor"),
            (&module(&INFO)[..HEADER], "cut off"),
        ] {
            let said = Modinfo::parse(bytes).unwrap_err().to_string();
            assert!(said.contains(what), "{said}");
        }
        let mut renamed = module(&INFO);
        let at = renamed.windows(8).position(|w| w == b".modinfo").unwrap();
        renamed[at + 1] = b'x';
        let said = Modinfo::parse(&renamed).unwrap_err().to_string();
        assert_eq!(said, "it is not a kernel module (no section .modinfo)");
    }
}
