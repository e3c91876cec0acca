//! gRPC bodies: messages behind a flag and a length (gRPC over HTTP/2, "Length-Prefixed-Message"). A message in which a token was opened gets
//! its length anew; one that is compressed or above the bound passes as it is.

use super::text::{Text, Unfit};

/// The state between two pieces of one body.
#[derive(Debug)]
pub(super) struct Grpc {
    pub(super) text: Text,
    at: At,
    most: usize,
}

#[derive(Debug)]
enum At {
    /// In the prefix of a message.
    Prefix(Vec<u8>),
    /// In a message that is rewritten when it is whole.
    Message { message: Vec<u8>, length: usize },
    /// In a message that passes; so many bytes are still to come.
    Passing(usize),
}

impl At {
    const START: Self = Self::Prefix(Vec::new());
}

impl Grpc {
    /// `most` is the longest message that is looked at, in bytes.
    pub(super) const fn new(text: Text, most: usize) -> Self {
        Self { text, at: At::START, most }
    }

    /// Takes a piece, and appends what is settled.
    pub(super) fn push(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Unfit> {
        let mut data = data;
        while !data.is_empty() {
            match &mut self.at {
                At::Prefix(prefix) => {
                    take(&mut data, PREFIX - prefix.len(), prefix);
                    if let Ok(prefix) = <[u8; PREFIX]>::try_from(prefix.as_slice()) {
                        self.begin(prefix, out);
                    }
                }
                At::Message { message, length } => {
                    take(&mut data, *length - message.len(), message);
                    if message.len() == *length {
                        let message = std::mem::take(message);
                        self.at = At::START;
                        self.message(&message, out)?;
                    }
                }
                At::Passing(left) => {
                    *left -= take(&mut data, *left, out);
                    if *left == 0 {
                        self.at = At::START;
                    }
                }
            }
        }
        Ok(())
    }

    /// The body has ended; what is no whole message goes on as it came.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        match std::mem::replace(&mut self.at, At::START) {
            At::Prefix(prefix) => out.extend_from_slice(&prefix),
            At::Message { message, length } => {
                out.extend_from_slice(&prefix(length));
                out.extend_from_slice(&message);
            }
            At::Passing(_) => {}
        }
    }

    fn begin(&mut self, prefix: [u8; PREFIX], out: &mut Vec<u8>) {
        let [flag, length @ ..] = prefix;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if flag == 0 && (1..=self.most).contains(&length) {
            self.at = At::Message { message: Vec::new(), length };
            return;
        }
        out.extend_from_slice(&prefix);
        self.at = if length == 0 { At::START } else { At::Passing(length) };
    }

    fn message(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), Unfit> {
        let start = out.len();
        out.extend_from_slice(&[0; PREFIX]);
        self.text.message(message, out)?;
        let length = out.len() - start - PREFIX;
        if let Some(place) = out.get_mut(start..start + PREFIX) {
            place.copy_from_slice(&prefix(length));
        }
        Ok(())
    }
}

/// The flag and the length, in bytes.
const PREFIX: usize = 5;

/// The prefix of a message that is not compressed. A length that does not fit is impossible: messages are bounded, and so are values.
fn prefix(length: usize) -> [u8; PREFIX] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [0, a, b, c, d]
}

/// Moves up to `most` bytes; returns how many.
fn take(data: &mut &[u8], most: usize, into: &mut Vec<u8>) -> usize {
    let (taken, rest) = data.split_at(most.min(data.len()));
    into.extend_from_slice(taken);
    *data = rest;
    taken.len()
}
