//! Many mounts, many files: nothing is left, and little is held.

use std::path::Path;

use crate::place::{Place, is_mounted, sample};
use crate::support::Image;

/// Bytes of memory of its own that a process holds.
fn own_memory(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kib.trim().parse::<u64>().unwrap() * 1024
}

/// LBPAYLOAD_MOUNTS asks for more than the usual 100; the measure is 1000.
#[test]
fn mounts_and_unmounts_in_a_row_leave_nothing() {
    needs_fuse!();
    let asked = std::env::var("LBPAYLOAD_MOUNTS").ok();
    let times: u32 = asked.map_or(100, |text| text.parse().unwrap());
    let mut place = Place::new(&sample());
    let parent = place.dir().join("leaks");
    std::fs::create_dir(&parent).unwrap();
    place.point = parent.join("made");
    for n in 0..times {
        let options = ["exec", "auto_unmount", "direct_io", "allow_other"][n as usize % 4];
        place.mount(&["-o", options]).exits(0);
        assert_eq!(std::fs::read(place.file("z-first")).unwrap(), b"hello");
        place.unmount(&[]).exits(0);
        assert!(!is_mounted(&place.point) && !place.point.exists(), "{n}");
    }
    assert_eq!(std::fs::read_dir(&parent).unwrap().count(), 0);
    place.is_clean();
}

/// A payload of `count` files of 2 bytes, under names of 20.
fn numerous(count: u32) -> Image {
    let file = |n: u32| (format!("package-{n:08}.tgz").into_bytes(), b"xy".to_vec());
    Image {
        wide: true,
        files: (0..count).map(file).collect(),
    }
}

fn touch_all(place: &Place, count: u32) {
    assert_eq!(
        std::fs::read_dir(&place.point).unwrap().count(),
        count as usize
    );
    for n in (0..count).step_by(count as usize / 500) {
        let name = format!("package-{n:08}.tgz");
        assert_eq!(std::fs::read(place.file(&name)).unwrap(), b"xy");
    }
}

#[test]
fn twenty_thousand_files_take_at_most_5_mib() {
    needs_fuse!();
    let place = Place::new(&numerous(20_000));
    for options in ["exec", "direct_io"] {
        place.mounted(&["-o", options]);
        touch_all(&place, 20_000);
        let bytes = own_memory(place.server());
        assert!(bytes <= 5 << 20, "{options}: {bytes}");
        place.unmount(&[]).exits(0);
    }
}

#[test]
fn large_reads_of_many_at_once_leave_memory_at_most_5_mib() {
    needs_fuse!();
    for options in ["exec", "direct_io"] {
        let place = Place::new(&sample());
        place.mounted(&["-o", options]);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| std::fs::read(place.file("large")).unwrap());
            }
        });
        let bytes = own_memory(place.server());
        assert!(bytes <= 5 << 20, "{options}: {bytes}");
    }
}

#[test]
fn a_million_files_take_less_than_200_bytes_each() {
    needs_fuse!();
    let place = Place::new(&numerous(1_000_000));
    place.mounted(&[]);
    let last: &Path = &place.file("package-00999999.tgz");
    assert_eq!(std::fs::read(last).unwrap(), b"xy");
    assert!(!place.file("package-01000000.tgz").exists());
    let bytes = own_memory(place.server());
    assert!(bytes < 200_000_000, "{bytes}");
}
