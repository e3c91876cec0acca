//! Where gRPC messages end: the other side waits for each, so none of it may be held back.

/// Follows the length-prefixed messages of a gRPC body: a flag, four bytes of length, the message.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// How much of the prefix was read.
    prefix: usize,
    length: u32,
    /// What is still to come of the message, once its prefix was read.
    rest: usize,
}

/// One flag and the length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: usize = 5;

impl Messages {
    /// Reads on; gives how many bytes of `data` belong to messages that have ended.
    pub(super) fn follow(&mut self, data: &[u8]) -> usize {
        let mut at = 0;
        let mut ended = 0;
        while let Some(&byte) = data.get(at) {
            if self.prefix < PREFIX {
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
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_ends_with_its_last_byte_however_it_is_cut() {
        let body =
            [&[0, 0, 0, 0, 3][..], b"abc", &[0, 0, 0, 0, 0], &[1, 0, 0, 1, 4], &[7; 260]].concat();
        assert_eq!(Messages::default().follow(&body), body.len());
        for cut in 0..body.len() {
            let mut messages = Messages::default();
            let first = messages.follow(&body[..cut]);
            let expected = [13, 8, 0].into_iter().find(|end| *end <= cut).unwrap();
            assert_eq!(first, expected, "cut at {cut}");
            assert_eq!(messages.follow(&body[cut..]), body.len() - cut, "cut at {cut}");
        }
    }
}
