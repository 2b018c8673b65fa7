//! Protected payloads on block devices.

use std::fs;
use std::path::Path;

use crate::disks::{Model, assert_holds, backing};
use crate::support::{Image, Loop, Ran, TempDir, check, lbpayload, noise};
use crate::{alone, needs_devices};

const BLOCK: usize = 4096;

/// A directory with inputs, and a disk of some MiB over a file.
struct Place {
    dir: TempDir,
    model: Model,
    disk: Loop,
    file: std::path::PathBuf,
}

impl Place {
    fn make(sector: u32, odd: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model: Model = [
            ("a".into(), noise(1, 3_000_001)),
            ("b".into(), Vec::new()),
            ("c".into(), noise(2, 70_000)),
        ]
        .into();
        fs::create_dir(dir.path().join("in")).unwrap();
        for (name, bytes) in &model {
            fs::write(dir.path().join("in").join(name), bytes).unwrap();
        }
        let file = backing(dir.path(), "disk", &noise(3, 1 << 20), (8 << 20) + odd);
        let disk = Loop::attach(&file, sector);
        Self {
            dir,
            model,
            disk,
            file,
        }
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(lbpayload().current_dir(self.dir.path()).args(args)).exits(0)
    }

    fn pack(&self, options: &[&str]) -> Ran {
        let disk = self.disk.path.to_str().unwrap();
        self.run(&[&["pack", "--force", "-o", disk, "in"], options].concat())
    }

    /// Imports from the disk and compares.
    fn import(&self) -> Ran {
        let dest = self.dir.path().join("out");
        let _ = fs::remove_dir_all(&dest);
        let disk = self.disk.path.to_str().unwrap();
        let ran = self.run(&["import", "--device", disk, "out"]);
        assert_holds(&dest, &self.model);
        ran
    }

    /// What is on the disk, past all caches.
    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.file).unwrap()
    }

    fn zero(&self, block: usize, count: usize) {
        check(
            std::process::Command::new("dd")
                .args([
                    "if=/dev/zero",
                    "bs=4096",
                    "oflag=direct",
                    "conv=notrunc",
                    "status=none",
                ])
                .arg(format!("of={}", self.disk.path.display()))
                .args([format!("seek={block}"), format!("count={count}")]),
        );
    }

    fn headers(&self) -> Vec<usize> {
        let bytes = self.bytes();
        let blocks = bytes.chunks(BLOCK).enumerate();
        blocks
            .filter(|(_, block)| block.starts_with(b"LBPROTC1"))
            .map(|(n, _)| n)
            .collect()
    }
}

#[test]
fn device_is_protected_in_the_same_run_and_heals_its_first_sector() {
    needs_devices!();
    let _alone = alone();
    for (sector, odd) in [(512, 0), (4096, 0), (512, 1536)] {
        let place = Place::make(sector, odd);
        let disk = place.disk.path.to_str().unwrap();
        place.pack(&["--protect"]);
        let good = place.bytes();
        let headers = place.headers();
        assert_eq!(headers.len(), 3, "{headers:?}");
        assert_eq!(headers[2], (8 << 20) / BLOCK - 1);
        place.run(&["verify", disk]);
        // The first sector, 100 KiB, and the first header of the trailer.
        place.zero(0, 1);
        place.zero(300, 25);
        place.zero(headers[0], 1);
        place.import().says("26 damaged blocks");
        place.run(&["repair", disk]);
        assert!(place.bytes() == good);
        // Without the option, no header stays.
        place.pack(&[]);
        assert!(place.headers().is_empty());
        place.import();
        place.run(&["protect", "--force", disk]);
        assert_eq!(place.headers(), headers);
        place.run(&["protect", "--force", "--remove", disk]);
        assert!(place.headers().is_empty());
    }
}

#[test]
fn image_on_a_larger_device_is_found_by_a_search_when_its_first_sector_is_lost() {
    needs_devices!();
    let _alone = alone();
    let place = Place::make(512, 0);
    let disk = place.disk.path.to_str().unwrap();
    place.run(&["pack", "-o", "img", "--protect", "in"]);
    let image = fs::read(place.dir.path().join("img")).unwrap();
    check(
        std::process::Command::new("dd")
            .args(["bs=64k", "conv=notrunc,fsync", "status=none"])
            .arg(format!("if={}", place.dir.path().join("img").display()))
            .arg(format!("of={disk}")),
    );
    place.import();
    place.zero(0, 1);
    place.import().says("searching for a trailer");
    place.run(&["repair", disk]);
    assert!(place.bytes()[..image.len()] == image[..]);
    // Probing and the drop-in do not search.
    place.zero(0, 1);
    let probed = Ran::of(lbpayload().args(["probe", disk])).exits(3);
    assert!(!probed.stderr.contains("search"));
    let drop_in = place.dir.path().join("payload-import");
    std::os::unix::fs::symlink(lbpayload().get_program(), &drop_in).unwrap();
    let mut command = std::process::Command::new(&drop_in);
    let ran = Ran::of(
        command
            .args(["--device", disk])
            .arg(Path::new("/nonexistent/x")),
    );
    assert_eq!(ran.status, Some(1));
    assert!(!ran.stderr.contains("search"), "{}", ran.stderr);
}

#[test]
fn old_trailer_on_a_device_that_was_written_again_is_not_used() {
    needs_devices!();
    let _alone = alone();
    let mut place = Place::make(512, 0);
    place.pack(&["--protect"]);
    assert_eq!(place.headers().len(), 3);
    // Another image is copied over it. Its end and the last block stay.
    place.model = [
        ("x".into(), noise(7, 1_000_000)),
        ("y".into(), noise(8, 10)),
    ]
    .into();
    let files: Vec<(&str, &[u8])> = place
        .model
        .iter()
        .map(|(n, b)| (n.as_str(), &b[..]))
        .collect();
    fs::write(place.dir.path().join("other"), Image::new(&files).bytes()).unwrap();
    check(
        std::process::Command::new("dd")
            .args(["bs=64k", "conv=notrunc,fsync", "status=none"])
            .arg(format!("if={}", place.dir.path().join("other").display()))
            .arg(format!("of={}", place.disk.path.display())),
    );
    let longer = Image::new(&[("x", &noise(7, 2_900_000)), ("y", &noise(8, 10))]);
    let disk = place.disk.path.to_str().unwrap().to_owned();
    // A third of the blocks differ: this could be damage, so nothing is given out.
    let ran = Ran::of(lbpayload().args(["cat", &disk, "x"]));
    assert_eq!(ran.status, Some(1));
    fs::write(place.dir.path().join("longer"), longer.bytes()).unwrap();
    check(
        std::process::Command::new("dd")
            .args(["bs=64k", "conv=notrunc,fsync", "status=none"])
            .arg(format!("if={}", place.dir.path().join("longer").display()))
            .arg(format!("of={disk}")),
    );
    place.model = [
        ("x".into(), noise(7, 2_900_000)),
        ("y".into(), noise(8, 10)),
    ]
    .into();
    place.import().says("it belongs to another payload");
    // Packing finds the old headers and erases them.
    place.model = Place::make(512, 0).model;
    place.pack(&[]);
    assert!(place.headers().is_empty());
    place.import();
}
