//! The privileged helper, started by a test.

use std::fs;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Stdio};

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, sendmsg, socketpair,
};

use crate::support::lbpayload;

/// The helper as promote starts it, with this test in place of promote.
pub(crate) struct Helper {
    pub(crate) socket: Option<OwnedFd>,
    pub(crate) child: Child,
}

impl Helper {
    pub(crate) fn start(named: &Path) -> Self {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let child = lbpayload()
            .arg("promote-helper")
            .arg(named)
            .stdin(Stdio::from(theirs))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            socket: Some(ours),
            child,
        }
    }

    pub(crate) fn ask(&self, text: &str, file: Option<&fs::File>) -> String {
        let files: Vec<BorrowedFd<'_>> = file.iter().map(|file| file.as_fd()).collect();
        self.ask_with(text.as_bytes(), &files)
    }

    /// Sends a message with up to 4 files, and returns the reply, or nothing if the helper has
    /// ended.
    pub(crate) fn ask_with(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> String {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(files)));
        }
        let socket = self.socket.as_ref().unwrap();
        let bytes = [IoSlice::new(bytes)];
        let flags = SendFlags::NOSIGNAL;
        if sendmsg(socket, &bytes, &mut control, flags).is_err() {
            return String::new();
        }
        let mut answer = vec![0; 1 << 16];
        let n = recv(socket, &mut answer[..], RecvFlags::empty()).map_or(0, |(n, _)| n);
        String::from_utf8_lossy(&answer[..n]).into_owned()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.socket = None;
        let _ = self.child.wait();
    }
}
