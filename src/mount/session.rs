//! The session: mounts, serves and unmounts.

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
use super::filesystem::Filesystem;
use super::fuse_adapter::FuseAdapter;
use super::mount_point::{IfBusy, MountPoint, one_line, unmount_path};
use super::mount_table::{KIND, SUBTYPE};
use super::read_pool::ReadPool;
use super::settings::{Access, Settings};
use super::sums::Sums;

/// The kernel's read-ahead in KiB, where it can be set.
const READ_AHEAD_KIB: u32 = 1024;

/// More than the memory that fuser gets for each event loop. It uses little of it.
const LOOP_BYTES: usize = 17 << 20;

/// The interval at which a server that was asked to stop checks whether another mount still
/// covers its own. It polls because without /proc there is no notification.
const COVERED_POLL: Duration = Duration::from_millis(250);

/// A mount and the threads that serve it.
pub struct Server {
    point: MountPoint,
    device: u64,
    sums: Arc<Sums>,
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
    /// Detaches the mount. The server ends when the last user closes its files.
    pub fn stop(&self) {
        // This fails only if the server has already ended.
        let _ = self.0.send(Event::Stop);
    }
}

impl Server {
    /// Mounts `filesystem` on `point`, starts to serve, and waits until the mount has answered.
    /// `give_stopper` is called before the mount is made, so that a signal can stop the server
    /// from the first moment on.
    ///
    /// # Errors
    /// The kernel lacks FUSE, permission is missing, the mount point is not usable, or no thread
    /// can be started.
    pub(super) fn start(
        filesystem: Arc<Filesystem>,
        point: MountPoint,
        settings: &Settings,
        give_stopper: impl FnOnce(Stopper) -> Result<()>,
    ) -> Result<Self> {
        let (send, events) = mpsc::channel();
        if let Err(error) = give_stopper(Stopper(send.clone())) {
            point.remove_if_made();
            return Err(error);
        }
        let fsname = settings.fsname.clone().unwrap_or_else(|| {
            let source = filesystem.payload().source().path();
            source.to_string_lossy().into_owned()
        });
        let activity = Arc::new(Activity::new());
        let pool = Arc::new(ReadPool::new(settings.max_threads));
        let sums = Arc::new(Sums::new(Arc::clone(&filesystem), Arc::clone(&pool)));
        let adapter = FuseAdapter::new(
            filesystem,
            Arc::clone(&sums),
            pool,
            settings,
            Arc::clone(&activity),
        );
        let session = match open_session(adapter, point.path(), &fsname, settings) {
            Ok(session) => session,
            Err(error) => {
                point.remove_if_made();
                return Err(error);
            }
        };
        let sandbox = settings.sandbox;
        // The threads that read the payload are started from here. The thread of the caller stays
        // free, because it unmounts.
        let run = move || {
            if let Some(sandbox) = sandbox {
                sandbox.enter();
            }
            // This fails only if the receiver is gone.
            let _ = send.send(Event::Ended(session.run()));
        };
        let started = std::thread::Builder::new().name("mount".into()).spawn(run);
        let answered = started.and_then(|_| point.own_device());
        let device = match answered {
            Ok(device) => device,
            Err(e) => {
                let error = Error::io("serve the mount", e).with_path(point.path());
                if let Err(e) = unmount_path(point.path(), IfBusy::Detach) {
                    log::debug!("{e}");
                }
                point.remove_if_made();
                return Err(error);
            }
        };
        read_ahead(device);
        sums.end_with(device);
        Ok(Self {
            point,
            device,
            sums,
            activity,
            timeout: settings.timeout,
            events,
        })
    }

    /// Returns the mount point.
    pub fn point(&self) -> &Path {
        self.point.path()
    }

    /// Serves until this process or another one unmounts it.
    ///
    /// # Errors
    /// The connection to the kernel failed.
    pub fn wait(mut self) -> Result<()> {
        // Whether a stop was requested while another mount covered this one.
        let mut covered = false;
        let ended = loop {
            match self.next(covered) {
                Ok(Event::Ended(result)) => break result,
                Ok(Event::Stop) => {
                    covered = !self.unmount(IfBusy::Detach);
                    if covered {
                        log::warn!(
                            "another mount covers `{}`, the server ends when that is unmounted",
                            self.point.path().display()
                        );
                    }
                }
                Err(RecvTimeoutError::Timeout) if covered => {
                    covered = !self.unmount(IfBusy::Detach);
                }
                Err(RecvTimeoutError::Timeout) => {
                    if self
                        .timeout
                        .is_some_and(|limit| self.activity.idle() >= limit)
                    {
                        self.activity.note();
                        self.unmount(IfBusy::Fail);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break Ok(()),
            }
        };
        self.point.remove_if_made();
        ended.map_err(|e| Error::io("serve the mount", e).with_path(self.point.path()))
    }

    fn next(&self, covered: bool) -> std::result::Result<Event, RecvTimeoutError> {
        if covered {
            return self.events.recv_timeout(COVERED_POLL);
        }
        let Some(timeout) = self.timeout else {
            let event = self.events.recv();
            return event.map_err(|_| RecvTimeoutError::Disconnected);
        };
        let left = timeout.saturating_sub(self.activity.idle());
        // A mount with open files can be idle and busy at once, so the unmount is retried.
        let left = left.max(Duration::from_millis(100));
        self.events.recv_timeout(left)
    }

    /// Unmounts, unless another mount covers ours: then no path leads to ours. Returns whether an
    /// unmount was tried.
    fn unmount(&mut self, if_busy: IfBusy) -> bool {
        if !self.point.update_path(self.device) {
            return false;
        }
        match unmount_path(self.point.path(), if_busy) {
            // A caller that waits for a checksum would keep the server running.
            Ok(()) => self.sums.stop(),
            Err(e) if e.kind() == Kind::Busy => log::debug!("{e}"),
            Err(e) => log::error!("{e}"),
        }
        true
    }
}

fn open_session(
    adapter: FuseAdapter,
    dir: &Path,
    fsname: &str,
    settings: &Settings,
) -> Result<Session<FuseAdapter>> {
    let mut config = Config::default();
    config.acl = match settings.access {
        Access::Owner => SessionACL::Owner,
        Access::OwnerAndRoot => SessionACL::RootAndOwner,
        Access::Everybody => SessionACL::All,
    };
    // Two threads keep one reader and the disk busy. More threads help only with more processors.
    let processors = std::thread::available_parallelism().map_or(1, Into::into);
    let loops = processors.clamp(2, 4);
    config.n_threads = Some(loops);
    check_memory(loops).map_err(|e| e.with_path(dir))?;
    let failed = |e: io::Error| Error::io("mount on", e).with_path(dir);
    if let Some(fuse) = mount_ourselves(dir, fsname, settings)? {
        return Session::from_fd(adapter, fuse, config.acl, config).map_err(|e| {
            if let Err(e) = unmount_path(dir, IfBusy::Detach) {
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
        // fusermount3 splits options at commas; see fuse_opt_add_opt_escaped in libfuse.
        MountOption::FSName(fsname.replace('\\', r"\\").replace(',', r"\,")),
    ];
    if settings.noexec {
        config.mount_options.push(MountOption::NoExec);
    }
    Session::new(adapter, dir, &config).map_err(|e| by_fusermount_failed(e, dir))
}

/// Checks that fuser will get memory for its loops. It would abort the program otherwise.
fn check_memory(loops: usize) -> Result<()> {
    let mut buffers = vec![Vec::<u8>::new(); loops];
    let mut got = buffers.iter_mut().map(|b| b.try_reserve_exact(LOOP_BYTES));
    match got.all(|got| got.is_ok()) {
        true => Ok(()),
        false => Err(Error::no_memory("get memory to serve the mount")),
    }
}

/// Mounts with mount(2). This needs privilege but no other program, and an initramfs has no
/// fusermount3. Returns `None` if permission is missing.
fn mount_ourselves(dir: &Path, fsname: &str, settings: &Settings) -> Result<Option<OwnedFd>> {
    const FUSE: &str = "/dev/fuse";
    let fuse: File = match OpenOptions::new().read(true).write(true).open(FUSE) {
        Ok(fuse) => fuse,
        Err(e) => {
            let errno = e.raw_os_error();
            let error = Error::io("open", e).with_path(FUSE);
            return Err(match errno {
                // fusermount3 opens /dev/fuse as the same user, so it would fail too.
                Some(libc::EACCES | libc::EPERM) => error
                    .with_code("fuse-permission")
                    .advice("mount as root, or give /dev/fuse the mode 0666, as udev does"),
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                    error.with_code("no-fuse").advice(
                        "run `modprobe fuse`, and where nothing creates the node \
                     `mknod /dev/fuse c 10 229`",
                    )
                }
                _ => error,
            });
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
    match mount(Some(fsname), dir, Some(KIND), flags, Some(&*data)) {
        Ok(()) => Ok(Some(fuse.into())),
        Err(Errno::EPERM) => Ok(None),
        Err(e) => {
            let error = Error::io("mount on", e.into()).with_path(dir);
            Err(match e {
                Errno::ENODEV => error
                    .with_code("no-fuse")
                    .advice("run `modprobe fuse`, which loads the kernel's module"),
                _ => error,
            })
        }
    }
}

fn by_fusermount_failed(e: io::Error, dir: &Path) -> Error {
    if e.kind() == io::ErrorKind::NotFound {
        return Error::io("start fusermount3", e)
            .with_code("no-fusermount")
            .advice("install the package fuse3, or mount as root");
    }
    let said = one_line(&e.to_string());
    let forbidden = said.contains("user_allow_other");
    let not_owner = said.contains("no write access to mountpoint");
    let error = Error::new(Kind::Refused, said)
        .doing("mount on")
        .with_path(dir);
    if forbidden {
        error.with_code("allow-other").advice(
            "leave out allow_other and allow_root, or add the line user_allow_other to \
             /etc/fuse.conf as root",
        )
    } else if not_owner {
        error.with_code("mount-point-owner").advice(format!(
            "as root, run `chown USER {}` for the user that mounts",
            dir.display()
        ))
    } else {
        error
    }
}

/// Makes the kernel read ahead further than FUSE can request. Errors are ignored.
fn read_ahead(device: u64) {
    let (major, minor) = (libc::major(device), libc::minor(device));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(e) = std::fs::write(&path, READ_AHEAD_KIB.to_string()) {
        log::debug!("{path}: {e}");
    }
}
