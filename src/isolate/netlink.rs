//! Netlink: requests with nested attributes, and their acknowledgements.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// A socket to one part of the kernel.
pub(super) struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// To that part; `None` is routing.
    pub(super) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        Ok(Self { socket })
    }

    /// Sends messages in one piece, and waits until each that asks for it is acknowledged; the first refusal is the error.
    pub(super) fn request(&self, messages: &[Message]) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut waiting = 0;
        for (message, sequence) in messages.iter().zip(1..) {
            message.write(sequence, &mut bytes)?;
            waiting += usize::from(message.flags & ACKNOWLEDGE != 0);
        }
        send(&self.socket, &bytes, SendFlags::empty())?;
        let mut answer = vec![0; 32 << 10];
        while waiting > 0 {
            let (received, _length) = recv(&self.socket, &mut answer[..], RecvFlags::empty())?;
            waiting -= acknowledged(answer.get(..received).unwrap_or_default())?.min(waiting);
        }
        Ok(())
    }

    /// Asks for a list, and gives each entry without its header.
    pub(super) fn list(&self, message: &Message) -> io::Result<Vec<Vec<u8>>> {
        let mut bytes = Vec::new();
        message.write(1, &mut bytes)?;
        send(&self.socket, &bytes, SendFlags::empty())?;
        let mut list = Vec::new();
        let mut answer = vec![0; 32 << 10];
        loop {
            let (received, _length) = recv(&self.socket, &mut answer[..], RecvFlags::empty())?;
            let mut answers = answer.get(..received).unwrap_or_default();
            while let Some((kind, body, rest)) = next(answers)? {
                match kind {
                    DONE => return Ok(list),
                    ERROR => refusal(body)?,
                    _ => list.push(body.to_vec()),
                }
                answers = rest;
            }
        }
    }
}

const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
/// Everything that there is.
const DUMP: u16 = 0x300;
/// Make what is not there.
pub(super) const CREATE: u16 = 0x400;
/// Behind what is there.
pub(super) const APPEND: u16 = 0x800;

/// A request.
pub(super) struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// With the fixed part of its kind; it asks to be acknowledged.
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        Self { kind, flags: flags | REQUEST | ACKNOWLEDGE, body: fixed.to_vec() }
    }

    /// The same without an acknowledgement.
    pub(super) fn silent(kind: u16, fixed: &[u8]) -> Self {
        Self { kind, flags: REQUEST, body: fixed.to_vec() }
    }

    /// Asks for a list.
    pub(super) fn list(kind: u16, fixed: &[u8]) -> Self {
        Self { kind, flags: REQUEST | DUMP, body: fixed.to_vec() }
    }

    /// Adds an attribute.
    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        attribute(&mut self.body, kind, value);
        self
    }

    fn write(&self, sequence: u32, bytes: &mut Vec<u8>) -> io::Result<()> {
        let length = u32::try_from(self.body.len() + HEADER).map_err(io::Error::other)?;
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&self.kind.to_ne_bytes());
        bytes.extend_from_slice(&self.flags.to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.body);
        pad(bytes);
        Ok(())
    }
}

const HEADER: usize = 16;
/// An attribute that holds attributes.
pub(super) const NESTED: u16 = 0x8000;

/// Appends an attribute. Values here are a few hundred bytes at most.
pub(super) fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    pad(bytes);
}

/// Attributes in one value.
pub(super) fn attributes(parts: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, value) in parts {
        attribute(&mut bytes, *kind, value);
    }
    bytes
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The value of the first attribute of a kind.
pub(super) fn attribute_of(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some((head, _)) = attributes.split_first_chunk::<4>() {
        let [l0, l1, k0, k1] = *head;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = attributes.get(head.len()..length)?;
        if u16::from_ne_bytes([k0, k1]) == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

const ERROR: u16 = 2;
const DONE: u16 = 3;

/// How many requests these answers acknowledge.
fn acknowledged(mut answers: &[u8]) -> io::Result<usize> {
    let mut count = 0;
    while let Some((kind, body, rest)) = next(answers)? {
        if kind == ERROR {
            refusal(body)?;
            count += 1;
        }
        answers = rest;
    }
    Ok(count)
}

/// The kind and body of the first answer, and the answers behind it.
fn next(answers: &[u8]) -> io::Result<Option<(u16, &[u8], &[u8])>> {
    let Some((header, _)) = answers.split_first_chunk::<HEADER>() else { return Ok(None) };
    let [l0, l1, l2, l3, k0, k1, ..] = *header;
    let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    let body = answers.get(HEADER..length).ok_or(io::ErrorKind::InvalidData)?;
    let rest = answers.get(length.next_multiple_of(4)..).unwrap_or_default();
    Ok(Some((u16::from_ne_bytes([k0, k1]), body, rest)))
}

/// The error that an answer names; 0 is none.
fn refusal(body: &[u8]) -> io::Result<()> {
    let number = body.first_chunk().ok_or(io::ErrorKind::InvalidData)?;
    match i32::from_ne_bytes(*number) {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number.saturating_neg())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_their_length_is_not() {
        let bytes = attributes(&[(7, b"nat\0"), (1, b"x")]);
        let mut expected = Vec::new();
        expected.extend_from_slice(&8u16.to_ne_bytes());
        expected.extend_from_slice(&7u16.to_ne_bytes());
        expected.extend_from_slice(b"nat\0");
        expected.extend_from_slice(&5u16.to_ne_bytes());
        expected.extend_from_slice(&1u16.to_ne_bytes());
        expected.extend_from_slice(b"x\0\0\0");
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_refusal_is_the_error_that_the_kernel_named() {
        let answer = |number: i32| {
            let mut bytes = Vec::new();
            let body = number.to_ne_bytes();
            Message { kind: ERROR, flags: 0, body: body.to_vec() }.write(1, &mut bytes).unwrap();
            bytes
        };
        assert_eq!(acknowledged(&[answer(0), answer(0)].concat()).unwrap(), 2);
        let refused = acknowledged(&[answer(0), answer(-1)].concat()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(1));
        assert!(acknowledged(&answer(0)[..18]).is_err());
    }
}
