//! Where gRPC messages end: the other side waits for each, so none of it may be held back. A compressed message cannot be searched, whatever
//! the request accepted, and ends the answer.

use super::Unreadable;

/// Follows the length-prefixed messages of a gRPC body: a flag, four bytes of length, the message.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// How much of the prefix was read.
    prefix: usize,
    length: u32,
    /// What is still to come of the message, once its prefix was read.
    rest: usize,
}

/// The bit of the flag that says that a message is compressed, and the one that says that it holds gRPC-Web's trailers.
const COMPRESSED: u8 = 0x01;
const TRAILERS: u8 = 0x80;

/// One flag and the length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: usize = 5;

impl Messages {
    /// Reads on; gives how many bytes of `data` belong to messages that have ended.
    pub(super) fn follow(&mut self, data: &[u8]) -> Result<usize, Unreadable> {
        let mut at = 0;
        let mut ended = 0;
        while let Some(&byte) = data.get(at) {
            if self.prefix < PREFIX {
                if self.prefix == 0 {
                    check(byte)?;
                }
                self.length = if self.prefix == 0 { 0 } else { self.length << 8 | u32::from(byte) };
                self.prefix += 1;
                self.rest = self.length as usize;
                at += 1;
            } else {
                let taken = self.rest.min(data.len() - at);
                self.rest -= taken;
                at += taken;
            }
            if self.prefix == PREFIX && self.rest == 0 {
                self.prefix = 0;
                ended = at;
            }
        }
        Ok(ended)
    }
}

/// A flag that no gRPC has means that lengths do not stand where they are read.
const fn check(flag: u8) -> Result<(), Unreadable> {
    match flag {
        0 | TRAILERS => Ok(()),
        _ if flag & !TRAILERS == COMPRESSED => Err(Unreadable::Compressed),
        _ => Err(Unreadable::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_ends_with_its_last_byte_however_it_is_cut() {
        let body = [&[0, 0, 0, 0, 3][..], b"abc", &[0, 0, 0, 0, 0], &[0x80, 0, 0, 1, 4], &[7; 260]]
            .concat();
        assert_eq!(Messages::default().follow(&body), Ok(body.len()));
        for cut in 0..body.len() {
            let mut messages = Messages::default();
            let first = messages.follow(&body[..cut]);
            let expected = [13, 8, 0].into_iter().find(|end| *end <= cut).unwrap();
            assert_eq!(first, Ok(expected), "cut at {cut}");
            assert_eq!(messages.follow(&body[cut..]), Ok(body.len() - cut), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_compressed_or_no_message_ends_the_answer() {
        for (flag, why) in [
            (1, Unreadable::Compressed),
            (0x81, Unreadable::Compressed),
            (2, Unreadable::Damaged),
            (b'{', Unreadable::Damaged),
        ] {
            let body = [0, 0, 0, 0, 1, b'a', flag, 0, 0, 0, 1, b'b'];
            assert_eq!(Messages::default().follow(&body), Err(why), "{flag}");
        }
    }
}
