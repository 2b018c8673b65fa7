//! Sources that do not answer for a while. The image is a file of another mount, and the server
//! of that one is stopped.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;

use rustix::process::Signal;

use crate::fixture::{Fixture, attribute, is_mounted, is_running, kill, until};
use crate::support::{Image, Ran, lbpayload, noise};

/// A mount whose image lies on another mount.
struct OnAnother {
    below: Fixture,
    top: Fixture,
}

const FILES: usize = 24;

fn name(n: usize) -> String {
    format!("file-{n:02}")
}

fn content(n: usize) -> Vec<u8> {
    noise(n as u64, 300_000)
}

impl OnAnother {
    fn new(options: &[&str]) -> Self {
        let files: Vec<_> = (0..FILES).map(|n| (name(n), content(n))).collect();
        let files: Vec<_> = files.iter().map(|(n, d)| (&**n, &**d)).collect();
        let image = Image::new(&files).bytes();
        // direct_io, so that the kernel keeps nothing of the image.
        let below = Fixture::new(&Image::new(&[("image", &image)]));
        below.mounted(&["-o", "direct_io"]);
        let top = Fixture::with_bytes(b"");
        let image = below.file("image");
        let ran = top.mount_on(options, &image, &top.point).exits(0);
        assert_eq!(ran.stderr, "");
        Self { below, top }
    }

    fn stop(&self) {
        let server = self.below.server();
        kill(server, Signal::STOP);
        until("the server stops", || {
            let stat = std::fs::read_to_string(format!("/proc/{server}/stat")).unwrap();
            stat.contains(") T ")
        });
    }
}

fn reading_threads(server: i32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{server}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    let names = tasks.map(|t| std::fs::read_to_string(t.path().join("comm")).unwrap_or_default());
    names.filter(|name| name == "read\n").count()
}

/// Continues the server, whatever the test does.
struct Continues(i32);

impl Drop for Continues {
    fn drop(&mut self) {
        kill(self.0, Signal::CONT);
    }
}

#[test]
fn names_and_attributes_are_answered_while_all_reads_wait_for_the_disk() {
    needs_fuse!();
    let mounts = OnAnother::new(&[]);
    let (top, server) = (&mounts.top, mounts.top.server());
    let continues = Continues(mounts.below.server());
    let files: Vec<_> = (0..FILES).map(|n| File::open(top.file(&name(n)))).collect();
    mounts.stop();
    thread::scope(|scope| {
        let readers = files.iter().enumerate().map(|(n, file)| {
            let file = file.as_ref().unwrap();
            scope.spawn(move || {
                let mut data = vec![0; 300_000];
                file.read_exact_at(&mut data, 0).unwrap();
                assert!(data == content(n), "{n}");
            })
        });
        let readers: Vec<_> = readers.collect();
        until("as many reads wait as may", || {
            reading_threads(server) == 16
        });
        // None of these is in the kernel's caches.
        for missing in 0..50 {
            assert!(!top.file(&format!("missing-{missing}")).exists());
        }
        for n in 0..FILES {
            assert_eq!(attribute(&top.file(&name(n)), "index"), Ok(n.to_string()));
        }
        assert_eq!(std::fs::read_dir(&top.point).unwrap().count(), FILES);
        let statfs = rustix::fs::statvfs(&top.point).unwrap();
        assert_eq!(statfs.f_files, FILES as u64 + 1);
        assert_eq!(reading_threads(server), 16);
        drop(continues);
        readers
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
    });
    drop(files);
    top.unmount(&[]).exits(0);
    mounts.below.unmount(&[]).exits(0);
    top.is_clean();
}

#[test]
fn max_threads_limits_the_reads_that_wait() {
    needs_fuse!();
    for (option, limit) in [("max_threads=1", 1), ("max_threads=3", 3)] {
        let mounts = OnAnother::new(&["-o", option]);
        let (top, server) = (&mounts.top, mounts.top.server());
        let continues = Continues(mounts.below.server());
        let files: Vec<_> = (0..8)
            .map(|n| File::open(top.file(&name(n))).unwrap())
            .collect();
        mounts.stop();
        thread::scope(|scope| {
            for file in &files {
                scope.spawn(|| file.read_exact_at(&mut [0; 4096], 0).unwrap());
            }
            until("as many reads wait as may", || {
                reading_threads(server) == limit
            });
            assert!(!top.file("missing").exists());
            assert_eq!(reading_threads(server), limit);
            drop(continues);
        });
        drop(files);
        top.unmount(&[]).exits(0);
        mounts.below.unmount(&[]).exits(0);
    }
}

#[test]
fn mount_is_detached_and_its_server_killed_while_the_disk_is_stuck() {
    needs_fuse!();
    let mounts = OnAnother::new(&[]);
    let (top, server) = (&mounts.top, mounts.top.server());
    let continues = Continues(mounts.below.server());
    let file = File::open(top.file(&name(0))).unwrap();
    mounts.stop();
    thread::scope(|scope| {
        let reader = scope.spawn(|| file.read_exact_at(&mut [0; 4096], 0));
        until("the read waits", || reading_threads(server) == 1);
        let mut busy = lbpayload();
        Ran::of(busy.arg("unmount").arg(&top.point))
            .exits(1)
            .says("busy");
        let mut lazy = lbpayload();
        Ran::of(lazy.args(["unmount", "--lazy"]).arg(&top.point)).exits(0);
        assert!(!is_mounted(&top.point) && is_running(server));
        kill(server, Signal::KILL);
        assert!(reader.join().unwrap().is_err());
    });
    until("the server ends", || !is_running(server));
    drop(continues);
    mounts.below.unmount(&[]).exits(0);
    top.is_clean();
}
