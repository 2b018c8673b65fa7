//! What is fuzzed: one function for each target. Each takes bytes that anybody may have written,
//! and panics if a rule is broken. The fuzz targets and `tests/fuzz.rs` call them.
#![allow(dead_code)] // each binary calls one of them

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use lbpayload::block::{AlignedBuf, ReadMode, Source, read_exact_at};
use lbpayload::mount::{Filesystem, ROOT, Strictness};
use lbpayload::payload::{Checksums, EntryReader, Index, Payload};
use lbpayload::progress::Silent;
use lbpayload::promote::readers;
use lbpayload::protect::walk;
use lbpayload::protection::{Healer, ProtectedSource, Trailer, find, header_at};
use sha2::{Digest, Sha256};

type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("payload", payload),
    ("index", index),
    ("trailer", trailer),
    ("checksums", checksums),
    ("live_bootstrap", live_bootstrap),
    ("mount_options", mount_options),
    ("manifest", manifest),
    ("initramfs", initramfs),
    ("module", module),
    ("helper", helper),
    #[cfg(feature = "net")]
    ("http", http),
    #[cfg(feature = "net")]
    ("url", url),
];

struct Memory(Vec<u8>);

impl Source for Memory {
    fn path(&self) -> &Path {
        Path::new("memory")
    }

    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn alignment(&self) -> usize {
        1
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = usize::try_from(offset).ok().and_then(|at| self.0.get(at..));
        let from = from.unwrap_or_default();
        let len = from.len().min(buf.len());
        buf[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }

    fn mode(&self) -> ReadMode {
        ReadMode::Buffered
    }
}

fn shared(bytes: &[u8]) -> Arc<dyn Source> {
    Arc::new(Memory(bytes.to_vec()))
}

/// An image: what the walk, the index, a reader and the mount say of it is the same, and every
/// byte is one of the image.
pub fn payload(bytes: &[u8]) {
    let source = shared(bytes);
    let Ok(payload) = Payload::open_whatever_its_count(Arc::clone(&source)) else {
        return;
    };
    let counted = payload.problem_of_count().is_none();
    let Ok(walker) = payload.walk() else { return };
    let mut entries = Vec::new();
    let mut whole = counted;
    for step in walker {
        match step {
            Ok(entry) => entries.push(entry),
            Err(problem) => {
                whole = false;
                drop(problem.into_error(&*source).to_string());
                break;
            }
        }
    }
    let mut at = if payload.dialect().entry_header_len() == 16 {
        16
    } else {
        12
    };
    for entry in &entries {
        assert!(entry.header_offset == at && entry.data_offset > at);
        at = entry.end();
        assert!(at <= bytes.len() as u64, "an entry ends behind the image");
    }
    let strict = Index::strict(&payload, &Silent);
    let names: Vec<_> = entries.iter().map(|entry| entry.name().is_ok()).collect();
    if strict.is_ok() {
        assert!(whole && names.iter().all(|ok| *ok));
    }
    let mut mounted = Vec::new();
    for strictness in [Strictness::Strict, Strictness::Lenient] {
        let made = Filesystem::new(payload.clone(), strictness, &Silent, &mut |_| ());
        if strictness == Strictness::Strict {
            assert_eq!(
                made.is_ok(),
                strict.is_ok() && counted,
                "strict, and mounted"
            );
        }
        mounted.extend(made);
    }
    for filesystem in &mounted {
        answers(filesystem, bytes, 8 << 10);
    }
    for entry in entries.iter().take(50) {
        let Ok(mut reader) = EntryReader::new(&payload, entry) else {
            continue;
        };
        let mut at = entry.data_offset as usize;
        while let Some(block) = reader.next_block().unwrap() {
            assert!(bytes[at..].starts_with(block), "wrong bytes");
            at += block.len();
        }
        assert_eq!(at as u64, entry.end());
    }
}

/// Asks a filesystem over `image` everything that find, cat and getfattr ask. Reads up to `most`
/// bytes of each file.
pub fn answers(filesystem: &Filesystem, image: &[u8], most: usize) {
    let mut rows = Vec::new();
    let mut offset = 0;
    while let Ok(listed) = filesystem.list(ROOT, offset) {
        let before = rows.len();
        for row in listed.take(100) {
            offset = row.next;
            rows.push((row.ino, row.name.to_vec()));
        }
        if rows.len() == before || rows.len() > 2000 {
            break;
        }
    }
    for (ino, name) in rows
        .iter()
        .filter(|(_, name)| name != b"." && name != b"..")
    {
        assert!(
            !name.is_empty() && name.len() <= 255,
            "a name that no system stores"
        );
        assert!(!name.contains(&b'/') && !name.contains(&0));
        let node = filesystem
            .lookup(ROOT, name)
            .expect("a name that is listed");
        assert_eq!(node.ino(), *ino);
        let Ok(node) = filesystem.file(*ino) else {
            continue;
        };
        let (start, size) = (node.data_offset as usize, node.size as usize);
        assert!(start + size <= image.len(), "a file ends behind the image");
        for at in [0, size / 2, size.saturating_sub(1), size, size + 5] {
            let read = filesystem.read(*ino, at as u64, most, <[u8]>::to_vec);
            if let Ok(bytes) = read {
                let from = start + at.min(size);
                let want = &image[from..(start + size).min(from + most)];
                assert!(bytes == want, "wrong bytes");
            }
        }
        drop(filesystem.problem(*ino));
        if let (true, Ok(sum)) = (size < 2000, filesystem.sum(*ino)) {
            let want = Sha256::digest(&image[start..start + size]);
            assert_eq!(sum.to_string(), hex(&want));
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A saved index with the right key and checksum: a mount with it returns the bytes of the files
/// that it names, or an error.
pub fn index(bytes: &[u8]) {
    let image = image(&[(b"one", &[7; 300]), (b"two", b""), (b"three", b"abc")]);
    let payload = Payload::open(shared(&image)).unwrap();
    let whole = |payload: &Payload| {
        let made = Filesystem::new(payload.clone(), Strictness::Strict, &Silent, &mut |_| ());
        let mut out = Vec::new();
        let made = made.unwrap();
        made.write_index(SystemTime::UNIX_EPOCH, &mut out).unwrap();
        out
    };
    // The rest of an index without files is its checksum.
    let empty = Payload::open(shared(&self::image(&[]))).unwrap();
    let head = whole(&empty).len() - 32;
    let mut index = whole(&payload);
    if bytes.first() == Some(&0) {
        index.truncate(head);
        index.extend(&bytes[1..]);
        let sum = Sha256::digest(&index);
        index.extend(&sum[..]);
    } else {
        index = bytes.to_vec();
    }
    let read = Filesystem::from_index(payload, SystemTime::UNIX_EPOCH, &index[..]);
    if let Ok(filesystem) = read {
        answers(&filesystem, &image, 4096);
    }
}

fn image(files: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = b"LBPAYLD1".to_vec();
    out.extend((files.len() as u64).to_le_bytes());
    for (name, data) in files {
        out.extend((name.len() as u64).to_le_bytes());
        out.extend((data.len() as u64).to_le_bytes());
        out.extend(*name);
        out.extend(*data);
    }
    out
}

/// A trailer, whose header gets the right hash. What is read through it is checked, so nothing
/// may panic, and no memory may depend on what it claims.
pub fn trailer(bytes: &[u8]) {
    const BLOCK: usize = 4096;
    let mut image = image(&[(b"file", &[3; 5000])]);
    let len = image.len();
    image.resize(len.next_multiple_of(BLOCK), 0);
    let start = image.len();
    image.extend(bytes);
    image.resize(image.len().next_multiple_of(BLOCK), 0);
    for at in [start, image.len() - BLOCK] {
        if image.len() >= at + BLOCK && at >= start {
            image[at..at + 8].copy_from_slice(b"LBPROTC1");
            let sum = blake3::hash(&image[at..at + BLOCK - 32]);
            image[at + BLOCK - 32..at + BLOCK].copy_from_slice(sum.as_bytes());
        }
    }
    let source = shared(&image);
    drop(header_at(&*source, start as u64));
    let Trailer::Found(header) = find(&source, &mut || walk(&source)) else {
        return;
    };
    let healer = Healer::new(Arc::clone(&source), *header, 4 << 20);
    let source = ProtectedSource::new(source, healer, 4 << 20);
    let mut buf = AlignedBuf::new(BLOCK).unwrap();
    for at in (0..source.len().min(1 << 16)).step_by(BLOCK) {
        drop(read_exact_at(&source, &mut buf[..BLOCK], at));
    }
    drop(source.report());
}

/// A list of checksums: what is read is what was written.
pub fn checksums(bytes: &[u8]) {
    let mut sums = Checksums::new();
    if sums.add_lines(bytes, "list").is_err() {
        return;
    }
    let names: Vec<String> = sums.unseen().map(str::to_owned).collect();
    assert_eq!(names.len(), sums.len());
    let found: Vec<_> = names.iter().map(|name| sums.get(name).unwrap()).collect();
    for (name, sum) in names.iter().zip(&found) {
        assert_eq!(sums.take(name), Some(*sum));
    }
    assert_eq!(sums.unseen().count(), 0);
    let lines: String = (names.iter().zip(&found))
        .map(|(name, sum)| lbpayload::payload::sum_line(*sum, name))
        .collect();
    let mut again = Checksums::new();
    again.add_lines(lines.as_bytes(), "again").unwrap();
    for (name, sum) in names.iter().zip(&found) {
        assert_eq!(again.get(name), Some(*sum), "{name:?}");
    }
}

/// A manifest and a `sources` file of live-bootstrap, with a zero byte between them.
pub fn live_bootstrap(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (manifest, sources) = text.split_once('\0').unwrap_or((text, text));
    if let Ok((packages, names)) = lbpayload::payload::bootstrap_texts(manifest, sources) {
        let names = names.iter().map(|name| name.as_str().to_owned());
        for name in names.chain(packages) {
            assert!(!name.contains(['/', '\0']) && name != "." && name != "..");
        }
    }
}

/// The text of an option `-o`.
pub fn mount_options(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        lbpayload::cli::parse_mount_options(text);
    }
}

/// The YAML of promote.
pub fn manifest(bytes: &[u8]) {
    for strict in [false, true] {
        match readers::read_manifest(bytes, strict) {
            Ok(paths) => {
                for path in paths {
                    let plain = Path::new(&path).components();
                    let below = |part| matches!(part, std::path::Component::Normal(_));
                    assert!(plain.into_iter().all(below), "{path:?}");
                }
            }
            Err(error) => assert!(!error.starts_with("a bug"), "{error}"),
        }
        if let Ok(repos) = readers::read_build_state(bytes, strict) {
            for (_, id) in repos {
                assert!(id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
            }
        }
    }
}

/// An initramfs, compressed or not.
pub fn initramfs(bytes: &[u8]) {
    if let Ok(names) = readers::read_initramfs(bytes, 1 << 20) {
        assert!(names.iter().all(|name| name.len() < 4096));
    }
}

/// A kernel module, and a kernel image.
pub fn module(bytes: &[u8]) {
    drop(readers::read_module(bytes));
    if let Some(release) = readers::read_release(bytes) {
        assert!(!release.contains(['/', ' ']) && release.len() <= 64);
    }
}

/// A message between the helper of promote and its client.
pub fn helper(bytes: &[u8]) {
    readers::read_message(bytes).unwrap();
}

/// What a server answers. It never leads to another server here.
#[cfg(feature = "net")]
pub fn http(bytes: &[u8]) {
    use std::cell::RefCell;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    use lbpayload::net::{Client, Url};

    thread_local! {
        static SERVER: RefCell<Option<(TcpListener, Url)>> = const { RefCell::new(None) };
    }
    let lower = bytes.to_ascii_lowercase();
    if lower.windows(8).any(|word| word == b"location") {
        return;
    }
    SERVER.with_borrow_mut(|server| {
        let (listener, url) = server.get_or_insert_with(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let url = Url::parse(&format!("http://127.0.0.1:{port}/image")).unwrap();
            (listener, url)
        });
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let Ok((mut stream, _)) = listener.accept() else {
                    return;
                };
                let mut request = [0; 2048];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(bytes);
            });
            let client = Client::new(Duration::from_secs(2));
            let Ok(mut answer) = client.get(url, Some((0, Some(99))), None) else {
                return;
            };
            if let Some(range) = answer.range() {
                assert!(range.first <= range.last);
                assert!(range.total.is_none_or(|total| range.last < total));
            }
            let length = answer.length();
            let (mut total, mut buf) = (0, [0; 512]);
            while let Ok(n) = answer.read(&mut buf) {
                total += n as u64;
                if n == 0 {
                    break;
                }
            }
            let chunked = lower.windows(8).any(|word| word == b"transfer");
            assert!(chunked || length.is_none_or(|length| total <= length));
        });
    });
}

/// A URL, a redirect to another one, and the value of Content-Range, on one line each.
#[cfg(feature = "net")]
pub fn url(bytes: &[u8]) {
    use lbpayload::net::{ContentRange, Url};

    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let Ok(url) = Url::parse(first) else { return };
    drop((url.host_and_port(), url.file_path(), url.below("a file")));
    let shown = url.to_string();
    Url::parse(&shown).expect("what is shown is a URL too");
    if let Some(Ok(next)) = lines.next().map(|line| url.follow(line)) {
        drop(next.host_and_port());
    }
    if let Some(range) = lines.next().and_then(ContentRange::parse) {
        assert!(range.first <= range.last);
    }
}
