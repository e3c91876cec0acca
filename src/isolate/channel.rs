//! The socket between Tollgate and the stages: messages of JSON behind their length, with descriptors beside them.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A message may be this long: environments and trust stores are the longest.
pub(super) const LONGEST: usize = 64 << 20;
/// So many descriptors may come with one.
const DESCRIPTORS: usize = 8;

/// Sends a message; the descriptors go with its first byte.
pub(super) fn send<M: Serialize>(
    mut socket: &UnixStream,
    message: &M,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let head = u32::try_from(body.len()).map_err(io::Error::other)?.to_be_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors"));
    }
    let sent = sendmsg(socket, &[IoSlice::new(&head)], &mut beside, SendFlags::NOSIGNAL)?;
    socket.write_all(head.get(sent..).unwrap_or_default())?;
    socket.write_all(&body)
}

/// Receives a message and what came with it; `UnexpectedEof` where the other side has gone.
pub(super) fn receive<M: DeserializeOwned>(
    mut socket: &UnixStream,
) -> io::Result<(M, Vec<OwnedFd>)> {
    let mut head = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received =
        recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut head)], &mut beside, flags)?.bytes;
    let mut descriptors = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    socket.read_exact(head.get_mut(received..).unwrap_or_default())?;
    let mut body = vec![0; length(head)?];
    socket.read_exact(&mut body)?;
    Ok((serde_json::from_slice(&body)?, descriptors))
}

/// What a message's head says of its body.
pub(super) fn length(head: [u8; 4]) -> io::Result<usize> {
    let length = usize::try_from(u32::from_be_bytes(head)).map_err(io::Error::other)?;
    if length > LONGEST {
        return Err(io::Error::other("a message is too long"));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(&here, &"word", &[writer.as_fd()]).unwrap();
        drop(writer);
        let (word, descriptors): (String, _) = receive(&there).unwrap();
        assert_eq!((word.as_str(), descriptors.len()), ("word", 1));
        std::fs::File::from(descriptors.into_iter().next().unwrap()).write_all(b"x").unwrap();
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert_eq!(read, "x");
        drop(here);
        let error = receive::<String>(&there).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
