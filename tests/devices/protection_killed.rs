//! The program is killed, or the power fails, at any write to a device with a protected payload:
//! the device holds the old payload, none, or the new one.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::disks::backing;
use crate::support::protected_state::read_payload;
use crate::support::recorder::{What, Written, each_state, record};
use crate::support::{Loop, TempDir, check, lbpayload, noise};
use crate::{alone, needs_devices};

const BLOCK: usize = 4096;
/// Small, because there are many states, and larger than the two ends that pack clears.
const SIZE: u64 = 320 << 10;

struct Place {
    dir: TempDir,
    disk: Loop,
    file: PathBuf,
}

impl Place {
    fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (at, files) in [("old", [100_001, 3000]), ("new", [50_000, 70_000])] {
            fs::create_dir(dir.path().join(at)).unwrap();
            for (n, len) in files.into_iter().enumerate() {
                let path = dir.path().join(at).join(format!("{at}-{n}"));
                fs::write(path, noise(len as u64, len)).unwrap();
            }
            let out = dir.path().join(format!("{at}.img"));
            let inputs = dir.path().join(at);
            check(lbpayload().args(["pack", "-o"]).args([out, inputs]));
        }
        let file = backing(dir.path(), "disk", &[], SIZE);
        let disk = Loop::attach(&file, 512);
        Self { dir, disk, file }
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.file).unwrap()
    }

    fn payload(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.path().join(name)).unwrap()
    }

    /// The program, with the disk in place of `DISK`.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = lbpayload();
        command.current_dir(self.dir.path());
        for arg in args {
            match *arg {
                "DISK" => command.arg(&self.disk.path),
                arg => command.arg(arg),
            };
        }
        command
    }

    /// Runs the program and checks what each state of the disk holds: a payload that `allowed`
    /// has. Returns the number of writes.
    #[track_caller]
    fn each_state_holds(&self, args: &[&str], allowed: &[Option<Vec<u8>>]) -> usize {
        let before = self.bytes();
        let Some(done) = record(&mut self.command(args), &What::This(&self.disk.path)) else {
            return usize::MAX;
        };
        let mut seen = vec![false; allowed.len()];
        each_state(&before, &done, 3, &mut |what, state| {
            let read = read_payload(state).unwrap_or_else(|e| panic!("{args:?}, {what}: {e}"));
            let found = allowed.iter().position(|allowed| *allowed == read);
            let len = read.map(|payload| payload.len());
            let found = found.unwrap_or_else(|| panic!("{args:?}, {what}: {len:?} bytes"));
            seen[found] = true;
        });
        assert!(seen.iter().all(|seen| *seen), "{args:?}: {seen:?}");
        done.iter().filter(|op| **op != Written::Sync).count()
    }

    fn damage(&self, blocks: &[usize]) {
        for block in blocks {
            check(
                Command::new("dd")
                    .args(["if=/dev/zero", "bs=4096", "count=1", "oflag=direct"])
                    .args(["conv=notrunc", "status=none", &format!("seek={block}")])
                    .arg(format!("of={}", self.disk.path.display())),
            );
        }
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
fn pack_that_is_killed_leaves_the_old_payload_none_or_the_new_one() {
    needs_devices!();
    let _alone = alone();
    let place = Place::make();
    let (old, new) = (place.payload("old.img"), place.payload("new.img"));
    let allowed = [Some(old.clone()), None, Some(new.clone())];
    let back = [Some(new.clone()), None, Some(old.clone())];
    let pack = |inputs| ["pack", "--force", "-o", "DISK", "--protect=10", inputs];
    let plain = |inputs| ["pack", "--force", "-o", "DISK", inputs];
    check(&mut place.command(&pack("old")));
    // Over a protected payload, over an unprotected one, and unprotected over a protected one.
    let writes = place.each_state_holds(&pack("new"), &allowed);
    assert!(writes > 15, "{writes}");
    assert_eq!(place.headers().len(), 3);
    place.each_state_holds(&plain("old"), &back);
    place.each_state_holds(&pack("new"), &allowed);
}

#[test]
fn protect_and_repair_that_are_killed_leave_the_payload() {
    needs_devices!();
    let _alone = alone();
    let place = Place::make();
    let payload = [Some(place.payload("old.img"))];
    check(&mut place.command(&["pack", "--force", "-o", "DISK", "old"]));
    place.each_state_holds(&["protect", "--force", "DISK"], &payload);
    place.each_state_holds(&["protect", "--force", "--percent", "20", "DISK"], &payload);
    let headers = place.headers();
    let good = place.bytes();
    for damaged in [
        &[0, headers[0], headers[2]][..],
        &[0, 9, 11],
        &[3, headers[1], headers[2]],
    ] {
        place.damage(damaged);
        let writes = place.each_state_holds(&["repair", "DISK"], &payload);
        assert!(writes >= damaged.len(), "{writes}");
        assert!(place.bytes() == good);
    }
    place.each_state_holds(&["protect", "--force", "--remove", "DISK"], &payload);
    assert!(place.headers().is_empty());
}
