//! Where the frames of a WebSocket lie in the bytes that a server sends (RFC 6455 §5.2).

use std::ops::Range;

/// Follows frames from server to client.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; MOST_HEAD],
    head_length: usize,
    /// What is still to come of the frame's payload, once its head was read.
    rest: u64,
    kind: Kind,
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
    pub(super) kind: Kind,
    pub(super) at: Range<usize>,
    /// The frame ends here.
    pub(super) ends: bool,
}

/// A frame that no server may send, or that could not be searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a server sent a masked frame (RFC 6455 §5.1)")]
    Masked,
    #[error("a frame of an extension that was not agreed on (RFC 6455 §5.2)")]
    Extended,
    #[error("a control frame of more than 125 bytes or in parts (RFC 6455 §5.5)")]
    Control,
}

/// Two bytes, and eight of extended length.
const MOST_HEAD: usize = 10;

impl Frames {
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
            tell(Stretch { kind: self.kind, at: place, ends: self.rest == 0 });
        }
        Ok(())
    }

    /// Takes the next byte of a head; whether that was its last.
    fn read_head(&mut self, byte: u8) -> Result<bool, FrameError> {
        if let Some(room) = self.head.get_mut(self.head_length) {
            *room = byte;
        }
        self.head_length += 1;
        let [first, second, extended @ ..] = self.head;
        let length = second & 0x7f;
        let needed = match length {
            126 => 4,
            127 => MOST_HEAD,
            _ => 2,
        };
        if self.head_length < needed.min(MOST_HEAD) || self.head_length < 2 {
            return Ok(false);
        }
        self.head_length = 0;
        self.kind = kind(first, second)?;
        self.rest = match (length, extended) {
            (126, [high, low, ..]) => u64::from(u16::from_be_bytes([high, low])),
            (127, extended) => u64::from_be_bytes(extended),
            (short, _) => u64::from(short),
        };
        Ok(true)
    }
}

fn kind(first: u8, second: u8) -> Result<Kind, FrameError> {
    let (last, extensions, opcode) = (first & 0x80 != 0, first & 0x70, first & 0x0f);
    if second & 0x80 != 0 {
        return Err(FrameError::Masked);
    }
    match opcode {
        _ if extensions != 0 => Err(FrameError::Extended),
        0..=2 if last => Ok(Kind::LastOfMessage),
        0..=2 => Ok(Kind::Message),
        8..=10 if last && second & 0x7f <= 125 => Ok(Kind::Control),
        8..=10 => Err(FrameError::Control),
        _ => Err(FrameError::Extended),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followed(data: &[u8], cut: usize) -> Result<Vec<(Kind, usize, bool)>, FrameError> {
        let mut frames = Frames::default();
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
