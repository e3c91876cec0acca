//! Where the frames of a WebSocket lie in the bytes that one side sends (RFC 6455 §5.2), and the few that Tollgate writes itself.
//!
//! Read by [`super::substitute`] on the way out and by [`super::scrub`] on the way back. What either side may not send is refused.

use std::ops::Range;

/// Follows the frames of one side.
#[derive(Debug)]
pub(super) struct Frames {
    from: Sender,
    head: Head,
    /// What is still to come of the frame's payload, once its head was read.
    rest: u64,
    /// A head was read, and nothing behind it was told.
    begins: bool,
}

/// Who sends the frames: a client masks them, a server does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    Client,
    Server,
}

/// The head of a frame, byte for byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    bytes: [u8; MOST_HEAD],
    length: usize,
}

/// What a stretch of payload belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// A message that goes on.
    #[default]
    Message,
    /// The last frame of a message.
    LastOfMessage,
    /// A ping, a pong or a close.
    Control,
}

/// A stretch of payload, or the end of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) head: Head,
    pub(super) kind: Kind,
    pub(super) at: Range<usize>,
    /// The frame begins here.
    pub(super) begins: bool,
    /// The frame ends here.
    pub(super) ends: bool,
}

/// A frame that its sender may not send, or that could not be searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a server sent a masked frame (RFC 6455 §5.1)")]
    Masked,
    #[error("a client sent a frame without a mask (RFC 6455 §5.1)")]
    Unmasked,
    #[error("a frame of an extension that was not agreed on (RFC 6455 §5.2)")]
    Extended,
    #[error("a control frame of more than 125 bytes or in parts (RFC 6455 §5.5)")]
    Control,
}

/// Two bytes, eight of extended length, and four of mask.
const MOST_HEAD: usize = 14;

/// A frame of one text message.
const TEXT: u8 = 0x81;

/// A frame that ends the connection.
const CLOSE: u8 = 0x88;

impl Frames {
    pub(super) const fn of(from: Sender) -> Self {
        let head = Head { bytes: [0; MOST_HEAD], length: 0 };
        Self { from, head, rest: 0, begins: false }
    }

    /// Whether a frame of somebody else may follow what was read.
    pub(super) const fn is_between(&self) -> bool {
        self.rest == 0 && self.head.length == 0
    }

    /// Reads on in `data`, of which the first byte has the place `base`; tells each stretch of payload.
    pub(super) fn follow(
        &mut self,
        data: &[u8],
        base: usize,
        mut tell: impl FnMut(Stretch),
    ) -> Result<(), FrameError> {
        let mut at = 0;
        while let Some(&byte) = data.get(at) {
            if self.rest == 0 {
                at += 1;
                if !self.read_head(byte)? || self.rest > 0 {
                    continue;
                }
            }
            let left = data.len() - at;
            let taken = usize::try_from(self.rest).unwrap_or(usize::MAX).min(left);
            self.rest -= taken as u64;
            let place = base + at..base + at + taken;
            at += taken;
            let (head, begins, ends) = (self.head, self.begins, self.rest == 0);
            self.begins = false;
            if ends {
                self.head = Head::default();
            }
            tell(Stretch { head, kind: head.kind(), at: place, begins, ends });
        }
        Ok(())
    }

    /// Takes the next byte of a head; whether that was its last.
    fn read_head(&mut self, byte: u8) -> Result<bool, FrameError> {
        let head = &mut self.head;
        if let Some(room) = head.bytes.get_mut(head.length) {
            *room = byte;
        }
        head.length += 1;
        if head.length < 2 || head.length < head.needed() {
            return Ok(false);
        }
        head.check(self.from)?;
        self.rest = head.payload();
        self.begins = true;
        Ok(true)
    }
}

impl Head {
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// 0: a message goes on; 1: text; 2: binary; 8, 9, 10: control.
    pub(super) const fn opcode(&self) -> u8 {
        let [first, ..] = self.bytes;
        first & 0x0f
    }

    /// How long the payload is.
    pub(super) fn payload(&self) -> u64 {
        let [_, second, extended @ ..] = &self.bytes;
        match (second & 0x7f, extended) {
            (126, [high, low, ..]) => u64::from(u16::from_be_bytes([*high, *low])),
            (127, extended) => extended.first_chunk().copied().map_or(0, u64::from_be_bytes),
            (short, _) => u64::from(short),
        }
    }

    /// The key with which a client masked the payload.
    pub(super) fn mask(&self) -> [u8; 4] {
        self.bytes().last_chunk().copied().unwrap_or_default()
    }

    fn kind(&self) -> Kind {
        let [first, ..] = self.bytes;
        match self.opcode() {
            8.. => Kind::Control,
            _ if first & 0x80 != 0 => Kind::LastOfMessage,
            _ => Kind::Message,
        }
    }

    const fn is_masked(&self) -> bool {
        let [_, second, ..] = self.bytes;
        second & 0x80 != 0
    }

    /// How long the head is, once its second byte is known.
    const fn needed(&self) -> usize {
        let [_, second, ..] = self.bytes;
        let length = match second & 0x7f {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        if self.is_masked() { length + 4 } else { length }
    }

    fn check(&self, from: Sender) -> Result<(), FrameError> {
        let [first, second, ..] = self.bytes;
        match (from, self.is_masked()) {
            (Sender::Server, true) => return Err(FrameError::Masked),
            (Sender::Client, false) => return Err(FrameError::Unmasked),
            _ => {}
        }
        match self.opcode() {
            _ if first & 0x70 != 0 => Err(FrameError::Extended),
            0..=2 => Ok(()),
            8..=10 if first & 0x80 != 0 && second & 0x7f <= 125 => Ok(()),
            8..=10 => Err(FrameError::Control),
            _ => Err(FrameError::Extended),
        }
    }
}

/// Appends a whole text message as one frame of a client's, masked with this key.
pub(super) fn write_text(payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    write_masked(TEXT, payload, mask, out);
}

/// The frame with which a side ends the connection, and its reason (RFC 6455 §7.4); a mask if it is the client's.
pub(super) fn close(code: u16, mask: Option<[u8; 4]>) -> Vec<u8> {
    let code = code.to_be_bytes();
    let mut out = Vec::with_capacity(8);
    match mask {
        Some(mask) => write_masked(CLOSE, &code, mask, &mut out),
        None => out.extend([&[CLOSE, 2], &code[..]].concat()),
    }
    out
}

fn write_masked(first: u8, payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    out.push(first);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ ..126), _) => out.push(0x80 | short),
        (_, Ok(length)) => {
            out.push(0x80 | 126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    out.extend(masked(payload, mask, 0));
}

/// Masks or unmasks a piece of payload that stands so far behind the frame's head (RFC 6455 §5.3).
pub(super) fn masked(payload: &[u8], mask: [u8; 4], offset: u64) -> impl Iterator<Item = u8> {
    let skipped = usize::try_from(offset % 4).unwrap_or_default();
    payload.iter().zip(mask.into_iter().cycle().skip(skipped)).map(|(byte, key)| byte ^ key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followed(data: &[u8], cut: usize) -> Result<Vec<(Kind, usize, bool)>, FrameError> {
        let mut frames = Frames::of(Sender::Server);
        let mut told: Vec<(Kind, usize, bool)> = Vec::new();
        let mut open = false;
        for (base, piece) in [(0, &data[..cut]), (cut, &data[cut..])] {
            frames.follow(piece, base, |stretch| {
                match told.last_mut().filter(|_| open) {
                    Some(last) => *last = (stretch.kind, last.1 + stretch.at.len(), stretch.ends),
                    None => told.push((stretch.kind, stretch.at.len(), stretch.ends)),
                }
                open = !stretch.ends;
            })?;
        }
        Ok(told)
    }

    #[test]
    fn frames_of_every_length_are_followed_however_they_are_cut() {
        let mut data = vec![0x01, 3, b'a', b'b', b'c', 0x89, 2, b'p', b'i', 0x80, 0];
        data.extend([0x82, 126, 1, 4]);
        data.extend([7; 260]);
        data.extend([0x82, 127, 0, 0, 0, 0, 0, 0, 0, 2, 1, 2]);
        let expected = vec![
            (Kind::Message, 3, true),
            (Kind::Control, 2, true),
            (Kind::LastOfMessage, 0, true),
            (Kind::LastOfMessage, 260, true),
            (Kind::LastOfMessage, 2, true),
        ];
        for cut in 0..=data.len() {
            assert_eq!(followed(&data, cut), Ok(expected.clone()), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_written_is_read_and_what_is_masked_is_unmasked_from_any_place() {
        for length in [0, 5, 125, 126, 300, 70_000] {
            let payload: Vec<u8> = [7, 8, 9].into_iter().cycle().take(length).collect();
            let mask = [1, 2, 3, 200];
            let mut out = Vec::new();
            write_text(&payload, mask, &mut out);
            let mut frames = Frames::of(Sender::Client);
            let mut told = Vec::new();
            frames.follow(&out, 0, |stretch| told.push(stretch)).unwrap();
            let [stretch] = told.as_slice() else { panic!("{told:?}") };
            assert!(stretch.begins && stretch.ends && frames.is_between());
            assert_eq!((stretch.head.opcode(), stretch.head.mask()), (1, mask));
            let (front, back) = out[stretch.at.clone()].split_at(length / 3);
            let read: Vec<u8> =
                masked(front, mask, 0).chain(masked(back, mask, front.len() as u64)).collect();
            assert_eq!(read, payload);
        }
        assert_eq!(close(1002, None), [0x88, 2, 3, 0xea]);
        assert_eq!(close(1002, Some([1, 1, 1, 1])), [0x88, 0x82, 1, 1, 1, 1, 2, 0xeb]);
    }

    #[test]
    fn what_could_not_be_searched_is_refused() {
        for (head, error) in [
            ([0x81, 0x81], FrameError::Masked),
            ([0xc1, 1], FrameError::Extended),
            ([0x83, 1], FrameError::Extended),
            ([0x09, 1], FrameError::Control),
            ([0x89, 126], FrameError::Control),
        ] {
            let mut data = head.to_vec();
            data.extend([0; 8]);
            assert_eq!(followed(&data, 0), Err(error), "{head:?}");
        }
    }
}
