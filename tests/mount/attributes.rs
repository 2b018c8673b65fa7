//! Extended attributes: they tell where a file's data is on the disk.

use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::fixture::{Fixture, attribute, sample, server_of};
use crate::support::{Image, noise, sha256sum};

fn names(path: &Path) -> Vec<String> {
    let mut list = vec![0; 65536];
    let len = rustix::fs::listxattr(path, &mut list[..]).unwrap();
    let list = String::from_utf8(list[..len].to_vec()).unwrap();
    list.split_terminator('\0')
        .map(|name| name.strip_prefix("user.lbpayload.").unwrap().to_owned())
        .collect()
}

/// Reads the image at the offset that the attribute gives for the file's data.
#[track_caller]
fn assert_offsets_lead_to_the_data(fixture: &Fixture, image: &Image) {
    let disk = std::fs::File::open(&fixture.image).unwrap();
    for (n, (name, data)) in image.files.iter().enumerate() {
        let path = fixture.file(std::str::from_utf8(name).unwrap());
        assert_eq!(attribute(&path, "index"), Ok(n.to_string()));
        let offset = attribute(&path, "data_offset").unwrap().parse().unwrap();
        let mut bytes = vec![0; data.len()];
        disk.read_exact_at(&mut bytes, offset).unwrap();
        assert!(bytes == *data, "{}", path.display());
    }
}

#[test]
fn data_offset_attribute_is_the_position_in_the_image() {
    needs_fuse!();
    for image in [sample(), sample().narrow()] {
        let fixture = Fixture::new(&image);
        fixture.mounted(&[]);
        assert_offsets_lead_to_the_data(&fixture, &image);
    }
}

#[test]
fn with_an_offset_option_data_offset_counts_from_the_start_of_the_image() {
    needs_fuse!();
    let image = sample();
    for offset in [512, 4097, 1 << 20] {
        let mut bytes = noise(9, offset);
        bytes.extend(image.bytes());
        let fixture = Fixture::with_bytes(&bytes);
        fixture.mounted(&["-o", &format!("offset={offset}")]);
        assert_offsets_lead_to_the_data(&fixture, &image);
        assert_eq!(
            std::fs::read(fixture.file("medium")).unwrap(),
            noise(2, 70_003)
        );
    }
}

#[test]
fn problem_attribute_has_the_offset_in_the_whole_image() {
    needs_fuse!();
    let image = sample();
    let fixture = Fixture::with_bytes(&[&noise(9, 1000)[..], &image.bytes()].concat());
    fixture.mounted(&["-o", "offset=1000"]);
    let start = 1000 + crate::fixture::data_offset(&image, "large");
    let disk = std::fs::OpenOptions::new().write(true).open(&fixture.image);
    disk.unwrap().set_len(start).unwrap();
    let path = fixture.file("large");
    assert_eq!(attribute(&path, "sha256"), Err(libc::EIO));
    let problem = attribute(&path, "problem").unwrap();
    assert!(problem.contains(&format!("at offset {start}")), "{problem}");
    assert!(std::fs::read(&path).is_err());
    let problem = attribute(&path, "problem").unwrap();
    assert!(problem.contains(&format!("at offset {start}")), "{problem}");
}

#[test]
fn checksum_is_computed_on_request_and_listed_afterwards() {
    needs_fuse!();
    let image = sample();
    let fixture = Fixture::new(&image);
    fixture.mounted(&[]);
    for (name, data) in &image.files {
        let path = fixture.file(std::str::from_utf8(name).unwrap());
        assert_eq!(names(&path), ["index", "data_offset"]);
        let sum = sha256sum(data);
        assert_eq!(attribute(&path, "sha256"), Ok(sum.clone()));
        assert_eq!(names(&path), ["index", "data_offset", "sha256"]);
        assert_eq!(attribute(&path, "sha256"), Ok(sum));
    }
}

#[test]
fn concurrent_checksum_requests_get_correct_results() {
    needs_fuse!();
    let image = sample();
    let fixture = Fixture::new(&image);
    fixture.mounted(&[]);
    std::thread::scope(|scope| {
        for n in 0..16 {
            let (name, data) = &image.files[n % image.files.len()];
            let path = fixture.file(std::str::from_utf8(name).unwrap());
            scope.spawn(move || assert_eq!(attribute(&path, "sha256"), Ok(sha256sum(data))));
        }
    });
}

#[test]
fn root_directory_has_attributes_of_the_whole_payload() {
    needs_fuse!();
    let fixture = Fixture::new(&sample().narrow());
    fixture.mounted(&[]);
    assert_eq!(
        names(&fixture.point),
        [
            "source",
            "dialect",
            "files",
            "pid",
            "reads",
            "bytes",
            "errors",
            "pid_namespace"
        ]
    );
    let source = fixture.image.to_str().unwrap().to_owned();
    assert_eq!(attribute(&fixture.point, "source"), Ok(source));
    assert_eq!(attribute(&fixture.point, "dialect"), Ok("u32".to_owned()));
    assert_eq!(attribute(&fixture.point, "files"), Ok("5".to_owned()));
    let exe = std::fs::read_link(format!("/proc/{}/exe", server_of(&fixture.point)));
    assert_eq!(exe.unwrap(), Path::new(env!("CARGO_BIN_EXE_lbpayload")));
}

#[test]
fn unknown_attributes_give_enodata() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    fixture.mounted(&[]);
    for path in [fixture.point.clone(), fixture.file("medium")] {
        for name in ["nope", "", "problem", "Index"] {
            assert_eq!(attribute(&path, name), Err(libc::ENODATA), "{name}");
        }
        for name in [
            "user.other",
            "security.capability",
            "trusted.x",
            "security.selinux",
        ] {
            let got = rustix::fs::getxattr(&path, name, &mut [0; 8]);
            let code = got.unwrap_err().raw_os_error();
            assert!(
                [libc::ENODATA, libc::EOPNOTSUPP].contains(&code),
                "{name} {code}"
            );
        }
    }
    assert_eq!(attribute(&fixture.point, "index"), Err(libc::ENODATA));
    assert_eq!(
        attribute(&fixture.file("medium"), "pid"),
        Err(libc::ENODATA)
    );
}

#[test]
fn too_small_buffer_gives_erange_and_the_size_can_be_queried() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    fixture.mounted(&[]);
    let path = fixture.file("medium");
    let get = |room: &mut [u8]| rustix::fs::getxattr(&path, "user.lbpayload.sha256", room);
    assert_eq!(get(&mut [0; 63]), Err(rustix::io::Errno::RANGE));
    let asked = rustix::fs::getxattr_query(&path, "user.lbpayload.sha256");
    assert_eq!(asked, Ok(64));
    assert_eq!(get(&mut [0; 64]), Ok(64));
    let list = |room: &mut [u8]| rustix::fs::listxattr(&path, room);
    let len = rustix::fs::listxattr_query(&path).unwrap();
    assert_eq!(list(&mut vec![0; len - 1]), Err(rustix::io::Errno::RANGE));
    assert_eq!(list(&mut vec![0; len]), Ok(len));
}

#[test]
fn problem_attribute_describes_the_damage_of_each_file() {
    needs_fuse!();
    let image = Image::new(&[
        ("good", b"fine"),
        ("a/b", b"escaped"),
        ("cut", &noise(3, 9000)),
    ]);
    let mut bytes = image.bytes();
    bytes.truncate(bytes.len() - 5000);
    let fixture = Fixture::with_bytes(&bytes);
    fixture.mount(&["--lenient"]).exits(0);
    assert_eq!(
        attribute(&fixture.file("good"), "problem"),
        Err(libc::ENODATA)
    );
    let escaped = attribute(&fixture.file("a%2Fb"), "problem").unwrap();
    assert!(escaped.contains("separates directories"), "{escaped}");
    let cut = attribute(&fixture.file("cut"), "problem").unwrap();
    assert!(cut.contains("the image ends at"), "{cut}");
    assert!(names(&fixture.file("cut")).contains(&"problem".to_owned()));
    let all = attribute(&fixture.point, "problem").unwrap();
    assert!(all.starts_with("2 problems, the first: entry 1 "), "{all}");
    assert_eq!(
        std::fs::read(fixture.file("cut")).unwrap(),
        noise(3, 9000)[..4000]
    );
    assert_eq!(std::fs::read(fixture.file("a%2Fb")).unwrap(), b"escaped");
}

#[test]
fn mount_of_a_damaged_payload_counts_what_it_healed_and_logs_it_once() {
    needs_fuse!();
    let image = sample();
    let fixture = Fixture::new(&image);
    let mut protect = crate::support::lbpayload();
    crate::support::Ran::of(protect.arg("protect").arg(&fixture.image)).exits(0);
    let mut bytes = std::fs::read(&fixture.image).unwrap();
    let start = crate::fixture::data_offset(&image, "large") as usize;
    // Far from the headers, which are read when it is mounted.
    let first = (start + 700_000).next_multiple_of(4096);
    bytes[first..first + 8192].fill(0);
    bytes[first + 900_000] ^= 1;
    std::fs::write(&fixture.image, bytes).unwrap();
    let log = fixture.dir().join("log");
    let option = format!("log={}", log.display());
    let point = fixture.mounted(&["-o", &option]);
    assert_eq!(attribute(point, "healed"), Ok("0".into()));
    let got = std::fs::read(fixture.file("large")).unwrap();
    assert!(got == *crate::fixture::data(&image, "large"));
    assert_eq!(attribute(point, "healed"), Ok("3".into()));
    fixture.unmount(&[]).exits(0);
    let logged = std::fs::read_to_string(&log).unwrap();
    assert_eq!(logged.matches("healed").count(), 1, "{logged}");
    assert!(logged.contains("repair it before"), "{logged}");
}
