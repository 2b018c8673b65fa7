//! Messages between the two processes. Each is one JSON text with at most one descriptor. They
//! are sent over a SOCK_SEQPACKET socket, which keeps message boundaries.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::promote::path::path_bytes;

/// The maximum size of a message in bytes. No request is longer: the extended attributes of a
/// file are at most 64 KiB, and twice that in hexadecimal. It is below the kernel's default limit
/// for a socket.
const MAX_BYTES: usize = 192 * 1024;

/// The first message. The descriptor of the directory is sent with it.
#[derive(Serialize, Deserialize)]
pub(super) struct Greeting {
    /// The path of the directory, for messages.
    #[serde(with = "path_bytes")]
    pub(super) rootfs: PathBuf,
}

/// Parses the first message.
#[cfg(feature = "internals")]
pub(crate) fn parse_greeting(bytes: &[u8]) -> serde_json::Result<PathBuf> {
    serde_json::from_slice::<Greeting>(bytes).map(|greeting| greeting.rootfs)
}

/// Sends `message` and a copy of `fd`.
pub(crate) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message).map_err(io::Error::from)?;
    if bytes.len() > MAX_BYTES {
        return Err(Errno::MSGSIZE.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::NOMEM.into());
    }
    loop {
        match sendmsg(
            &socket,
            &[IoSlice::new(&bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Err(Errno::INTR) => {}
            sent => return sent.map(drop).map_err(io::Error::from),
        }
    }
}

/// Waits for a message. Returns `None` if the other side has closed the socket.
pub(crate) fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let mut bytes = vec![0; MAX_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let mut into = [IoSliceMut::new(&mut bytes)];
        match recvmsg(&socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    let mut fd = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fd = fds.last().or(fd);
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    if got
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(Errno::MSGSIZE.into());
    }
    match serde_json::from_slice(&bytes[..got.bytes]) {
        Ok(message) => Ok(Some((message, fd))),
        Err(e) => Err(io::Error::new(io::ErrorKind::InvalidData, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promote::tree::protocol::Request;

    #[test]
    fn an_extended_attribute_that_is_not_hexadecimal_is_refused() {
        let (ours, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        for (value, understood) in [("00ff", true), ("0", false), ("+f", false), ("xy", false)] {
            let request = serde_json::json!({"Stage": {"slot": 1, "place": "a", "link": null, "attributes": {
                "mode": 420, "mtime": [0, 0], "owner": null, "xattrs": [["user.a", value]],
            }}});
            send(&ours, &request, None).unwrap();
            assert_eq!(receive::<Request>(&theirs).is_ok(), understood, "{value}");
        }
    }
}
