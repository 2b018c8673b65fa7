//! The session: mounts, serves, and ends.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::unistd::{getgid, getuid};

use crate::error::{Error, Kind, Result};

use super::activity::Activity;
use super::adapter::Adapter;
use super::answers::Answers;
use super::point::{MountPoint, Users, unmount_path};
use super::settings::{Access, Settings};

/// What /proc/mounts says behind `fuse.`.
const SUBTYPE: &str = "lbpayload";

/// Bytes that the kernel reads ahead of a reader, where we may set it.
const READ_AHEAD_KIB: u32 = 1024;

/// How often one that is to stop looks whether what was mounted over it has gone:
/// nothing tells without /proc.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// A mount that answers, and the threads that serve it.
pub struct Server {
    point: MountPoint,
    device: u64,
    activity: Arc<Activity>,
    timeout: Option<Duration>,
    events: Receiver<Event>,
}

enum Event {
    Stop,
    Ended(io::Result<()>),
}

/// Ends a [`Server`] from another thread.
#[derive(Clone)]
pub struct Stopper(Sender<Event>);

impl Stopper {
    /// Takes the mount out of sight; the server ends once the last user has.
    pub fn stop(&self) {
        // Gone already: then there is nothing to stop.
        let _ = self.0.send(Event::Stop);
    }
}

impl Server {
    /// Mounts `answers` on `point`, starts to serve, and waits until the mount has
    /// answered. Before that it hands out what ends it: whoever is to be asked to stop
    /// must hear it from the first moment on.
    ///
    /// # Errors
    /// No FUSE in the kernel, no right to mount, a bad mount point, no threads.
    pub(super) fn start(
        answers: Arc<Answers>,
        point: MountPoint,
        settings: &Settings,
        hand_out: impl FnOnce(Stopper) -> Result<()>,
    ) -> Result<Self> {
        let (send, events) = mpsc::channel();
        if let Err(error) = hand_out(Stopper(send.clone())) {
            point.forsake();
            return Err(error);
        }
        let fsname = settings.fsname.clone().unwrap_or_else(|| {
            let source = answers.payload().source().path();
            source.to_string_lossy().into_owned()
        });
        let activity = Arc::new(Activity::new());
        let adapter = Adapter::new(answers, settings, Arc::clone(&activity));
        let session = match open_session(adapter, point.path(), &fsname, settings) {
            Ok(session) => session,
            Err(error) => {
                point.forsake();
                return Err(error);
            }
        };
        let run = move || {
            // Nobody waits any more: then there is nobody to tell.
            let _ = send.send(Event::Ended(session.run()));
        };
        let started = std::thread::Builder::new().name("mount".into()).spawn(run);
        let answered = started.and_then(|_| point.device());
        let device = match answered {
            Ok(device) => device,
            Err(e) => {
                let error = Error::io("serving the mount", e).path(point.path());
                if let Err(e) = unmount_path(point.path(), Users::Leave) {
                    log::debug!("{e}");
                }
                point.forsake();
                return Err(error);
            }
        };
        read_ahead(device);
        Ok(Self {
            point,
            device,
            activity,
            timeout: settings.timeout,
            events,
        })
    }

    /// Serves until it is unmounted, by whomever.
    ///
    /// # Errors
    /// The connection to the kernel broke.
    pub fn wait(mut self) -> Result<()> {
        // Asked to stop while something else lay over the mount.
        let mut covered = false;
        let ended = loop {
            match self.next(covered) {
                Ok(Event::Ended(result)) => break result,
                Ok(Event::Stop) => {
                    covered = !self.unmount(Users::Leave);
                    if covered {
                        log::warn!(
                            "{}: something else is mounted over it; it ends when that has gone",
                            self.point.path().display()
                        );
                    }
                }
                Err(RecvTimeoutError::Timeout) if covered => {
                    covered = !self.unmount(Users::Leave);
                }
                Err(RecvTimeoutError::Timeout) => {
                    if self
                        .timeout
                        .is_some_and(|limit| self.activity.idle() >= limit)
                    {
                        self.activity.note();
                        self.unmount(Users::Refuse);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break Ok(()),
            }
        };
        self.point.forsake();
        ended.map_err(|e| Error::io("serving the mount", e).path(self.point.path()))
    }

    fn next(&self, covered: bool) -> std::result::Result<Event, RecvTimeoutError> {
        if covered {
            return self.events.recv_timeout(LOOK_AGAIN);
        }
        let Some(timeout) = self.timeout else {
            let event = self.events.recv();
            return event.map_err(|_| RecvTimeoutError::Disconnected);
        };
        let left = timeout.saturating_sub(self.activity.idle());
        // Those who have files open ask for nothing, so it is tried again.
        let left = left.max(Duration::from_millis(100));
        self.events.recv_timeout(left)
    }

    /// Unmounts, unless something else lies there by now, over our mount: no path leads
    /// below that. Whether there is nothing more to do.
    fn unmount(&mut self, users: Users) -> bool {
        if !self.point.follow(self.device) {
            return false;
        }
        match unmount_path(self.point.path(), users) {
            Ok(()) => {}
            Err(e) if e.kind() == Kind::Busy => log::debug!("{e}"),
            Err(e) => log::error!("{e}"),
        }
        true
    }
}

fn open_session(
    adapter: Adapter,
    dir: &Path,
    fsname: &str,
    settings: &Settings,
) -> Result<Session<Adapter>> {
    let mut config = Config::default();
    config.acl = match settings.access {
        Access::Owner => SessionACL::Owner,
        Access::OwnerAndRoot => SessionACL::RootAndOwner,
        Access::Everybody => SessionACL::All,
    };
    // Two are enough to keep a reader and the disk busy; more only on machines that
    // have the processors.
    let processors = std::thread::available_parallelism().map_or(1, Into::into);
    config.n_threads = Some(processors.clamp(2, 4));
    let failed = |e: io::Error| Error::io("mounting", e).path(dir);
    if let Some(fuse) = mount_ourselves(dir, fsname, settings)? {
        return Session::from_fd(adapter, fuse, config.acl, config).map_err(|e| {
            if let Err(e) = unmount_path(dir, Users::Leave) {
                log::debug!("{e}");
            }
            failed(e)
        });
    }
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::DefaultPermissions,
        MountOption::Subtype(SUBTYPE.into()),
        // fusermount3 takes options apart at commas; see libfuse's fuse_opt_add_opt_escaped.
        MountOption::FSName(fsname.replace('\\', r"\\").replace(',', r"\,")),
    ];
    if settings.noexec {
        config.mount_options.push(MountOption::NoExec);
    }
    Session::new(adapter, dir, &config).map_err(|e| by_fusermount_failed(e, dir))
}

/// Mounts by mount(2), which takes the privilege and no program: in an initramfs
/// there is no fusermount3. `None` where we may not.
fn mount_ourselves(dir: &Path, fsname: &str, settings: &Settings) -> Result<Option<OwnedFd>> {
    const FUSE: &str = "/dev/fuse";
    let fuse: File = match OpenOptions::new().read(true).write(true).open(FUSE) {
        Ok(fuse) => fuse,
        Err(e) => {
            let advice = match e.raw_os_error() {
                // fusermount3 opens it as the user too.
                Some(libc::EACCES | libc::EPERM) => {
                    "users mount where they may open it (udev gives it mode 0666); or mount as root"
                }
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                    "load the kernel's fuse module (modprobe fuse); where nothing makes the \
                     node: mknod /dev/fuse c 10 229"
                }
                _ => return Err(Error::io("opening", e).path(FUSE)),
            };
            return Err(Error::io("opening", e).path(FUSE).advice(advice));
        }
    };
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        fuse.as_raw_fd(),
        getuid(),
        getgid(),
    );
    if settings.access != Access::Owner {
        data.push_str(",allow_other");
    }
    let mut flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    if settings.noexec {
        flags |= MsFlags::MS_NOEXEC;
    }
    let kind = format!("fuse.{SUBTYPE}");
    match mount(Some(fsname), dir, Some(&*kind), flags, Some(&*data)) {
        Ok(()) => Ok(Some(fuse.into())),
        Err(Errno::EPERM) => Ok(None),
        Err(e) => {
            let error = Error::io("mounting", e.into()).path(dir);
            Err(match e {
                Errno::ENODEV => error.advice("load the kernel's fuse module (modprobe fuse)"),
                _ => error,
            })
        }
    }
}

fn by_fusermount_failed(e: io::Error, dir: &Path) -> Error {
    if e.kind() == io::ErrorKind::NotFound {
        return Error::io("starting fusermount3", e)
            .advice("who is not root mounts with it: install fuse3, or mount as root");
    }
    // What fusermount3 printed, perhaps in several lines.
    let said = e.to_string();
    let said = said.trim().replace('\n', "; ");
    let forbidden = said.contains("user_allow_other");
    let error = Error::new(Kind::Refused, said)
        .doing("mounting with fusermount3")
        .path(dir);
    if forbidden {
        error
            .advice("leave allow_other away, or have root write user_allow_other to /etc/fuse.conf")
    } else {
        error
    }
}

/// Lets the kernel read ahead further than FUSE can ask for, where we may; nothing
/// depends on it.
fn read_ahead(device: u64) {
    let (major, minor) = (libc::major(device), libc::minor(device));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(e) = std::fs::write(&path, READ_AHEAD_KIB.to_string()) {
        log::debug!("{path}: {e}");
    }
}
