//! The helper. It runs as root during one run and is confined to one directory.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sys::signal::{SigSet, Signal};
use rustix::process::Signal as DeathSignal;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::wire::{self, Greeting};
use crate::durable::{Bounds, Tree};
use crate::error::{Error, Kind, Result};
use crate::promote::refused::refused;
use crate::promote::tree::executor::perform;
use crate::promote::tree::protocol::{Reply, Request};

/// The capabilities that the helper keeps. It needs them to bypass file permissions, to give
/// files away, to set the modes, times and setgid bits of such files, and to set capabilities on
/// them.
const KEPT: CapabilitySet = CapabilitySet::DAC_OVERRIDE
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETFCAP);

/// Serves the process at the other end of standard input until that closes the socket. That
/// process sends the directory `named`, and nothing else is written to.
///
/// # Errors
/// Standard input is not such a socket, this process is not root, the other process sends another
/// directory, or the confinement fails.
pub fn serve(named: &Path) -> Result<()> {
    let by_hand = |e: io::Error| {
        Error::io("use standard input", e).advice(
            "lbpayload promote starts this helper itself (turn sudo's log_input off for it)",
        )
    };
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(by_hand)?;
    if rustix::net::sockopt::socket_type(&socket).map_err(|e| by_hand(e.into()))?
        != rustix::net::SocketType::SEQPACKET
    {
        return Err(by_hand(io::ErrorKind::InvalidInput.into()));
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::new(Kind::Refused, "this helper must run as root"));
    }
    let greeting = wire::receive::<Greeting>(&socket).map_err(by_hand)?;
    let Some((greeting, Some(rootfs))) = greeting else {
        return Ok(());
    };
    match is_at(named, &rootfs) {
        Ok(true) => {}
        Ok(false) => {
            return Err(refused(
                "not the directory that was handed over",
                named,
                "name it by its path without symlinks",
            ));
        }
        Err(e) => {
            return Err(Error::io("open", e)
                .with_path(named)
                .advice("name the rootfs by its path without symlinks"));
        }
    }
    let tree = confine(rootfs, &greeting.rootfs).map_err(|e| {
        Error::io("confine the helper to", e)
            .with_path(&greeting.rootfs)
            .advice("run promote as root")
    })?;
    let answer = |reply: &Reply, fd: Option<OwnedFd>| {
        wire::send(&socket, reply, fd.as_ref().map(AsFd::as_fd))
            .map_err(|e| Error::io("answer lbpayload promote", e))
    };
    answer(&Reply::Done, None)?;
    loop {
        let done = match wire::receive::<Request>(&socket) {
            Ok(None) => return Ok(()),
            Ok(Some((request, file))) => perform(&tree, &request, file.map(File::from).as_ref()),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                Err(Error::io("read a request", e).with_kind(Kind::Refused))
            }
            Err(e) => return Err(Error::io("receive a request", e)),
        };
        match done {
            Ok((reply, fd)) => answer(&reply, fd)?,
            Err(e) => answer(&Reply::Failed((&e).into()), None)?,
        }
    }
}

/// Returns whether `directory` is the one at `named`, a path without symlinks. The `/` of the
/// host is open only during this call.
fn is_at(named: &Path, directory: &OwnedFd) -> io::Result<bool> {
    let place = named
        .strip_prefix("/")
        .map_err(|_| io::ErrorKind::InvalidInput)?;
    Tree::open(Path::new("/"), Bounds::AsRoot)?.is_directory_at(place, directory)
}

/// Makes `rootfs` the root directory, and keeps only the capabilities that writing in it needs.
fn confine(rootfs: OwnedFd, shown: &Path) -> io::Result<Tree> {
    // Ctrl-C on the terminal reaches both processes, but the client decides when to stop.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    rustix::process::set_parent_process_death_signal(Some(DeathSignal::KILL))?;
    rustix::process::fchdir(&rootfs)?;
    // From here on, no path leads out of `rootfs`, whatever it contains.
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")?;
    rustix::thread::set_no_new_privs(true)?;
    rustix::thread::clear_ambient_capability_set()?;
    for capability in CapabilitySet::all().iter() {
        if KEPT.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // The kernel is too old to know this capability.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let sets = CapabilitySets {
        effective: KEPT,
        permitted: KEPT,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets)?;
    let root = rustix::fs::open(
        "/",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    Ok(Tree::of(root, shown, Bounds::AsRoot))
}
