//! HTTP/2 frames by hand, so that a client can send what no library would.

use std::fmt::Write as _;

/// Frames to be sent, the preface and an empty SETTINGS first.
#[derive(Clone, Debug)]
pub(crate) struct Frames(Vec<u8>);

impl Frames {
    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;

    /// The preface and an empty SETTINGS (RFC 9113 §3.4).
    pub(crate) fn new() -> Self {
        Self(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()).frame(4, 0, 0, &[])
    }

    /// Any frame.
    pub(crate) fn frame(mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        self.0.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
        self.0.extend_from_slice(&[kind, flags]);
        self.0.extend_from_slice(&stream.to_be_bytes());
        self.0.extend_from_slice(payload);
        self
    }

    /// HEADERS with END_HEADERS; fields are literal and may hold any byte.
    pub(crate) fn headers(self, stream: u32, flags: u8, fields: &[(&str, &[u8])]) -> Self {
        self.frame(1, flags | Self::END_HEADERS, stream, &block(fields))
    }

    pub(crate) fn data(self, stream: u32, flags: u8, payload: &[u8]) -> Self {
        self.frame(0, flags, stream, payload)
    }

    /// A GET of one authority and path, complete in one frame.
    pub(crate) fn get(
        self,
        stream: u32,
        authority: &str,
        path: &str,
        more: &[(&str, &[u8])],
    ) -> Self {
        let mut fields: Vec<(&str, &[u8])> = vec![
            (":method", b"GET"),
            (":scheme", b"https"),
            (":authority", authority.as_bytes()),
            (":path", path.as_bytes()),
        ];
        fields.extend_from_slice(more);
        self.headers(stream, Self::END_STREAM, &fields)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A header block of literal fields without indexing (RFC 7541 §6.2.2), without Huffman coding.
pub(crate) fn block(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name.as_bytes());
        string(&mut block, value);
    }
    block
}

fn string(block: &mut Vec<u8>, bytes: &[u8]) {
    match u8::try_from(bytes.len()) {
        Ok(length @ 0..127) => block.push(length),
        _ => {
            block.push(127);
            let mut rest = bytes.len() - 127;
            while rest >= 128 {
                block.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            block.push(u8::try_from(rest).unwrap());
        }
    }
    block.extend_from_slice(bytes);
}

/// What came back on one stream.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) status: Option<u16>,
    pub(crate) body: Vec<u8>,
    pub(crate) reset: Option<u32>,
    pub(crate) goaway: Option<u32>,
    /// The stream has ended, one way or the other.
    pub(crate) ended: bool,
}

/// Reads the frames that belong to a stream.
pub(crate) fn received(mut bytes: &[u8], stream: u32) -> Received {
    let mut all = Received::default();
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        bytes = rest;
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match (head[3], id == stream) {
            (0, true) => all.body.extend_from_slice(payload),
            (1, true) if all.status.is_none() => all.status = status(payload),
            (3, true) => all.reset = Some(number(0)),
            (7, _) => all.goaway = Some(number(4)),
            _ => {}
        }
        let end = id == stream && matches!(head[3], 0 | 1) && head[4] & Frames::END_STREAM != 0;
        all.ended |= end || all.reset.is_some() || all.goaway.is_some();
    }
    all
}

/// `:status` is the first field: indexed, or its value literal with digits in Huffman code or plain.
fn status(block: &[u8]) -> Option<u16> {
    let block = match block {
        // A dynamic table size update may come first.
        [update, rest @ ..] if update & 0xe0 == 0x20 => rest,
        _ => block,
    };
    match block {
        [index @ 0x88..=0x8e, ..] => {
            Some([200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)])
        }
        [0x48 | 0x08 | 0x18, length, rest @ ..] => {
            let value = rest.get(..usize::from(length & 0x7f))?;
            if length & 0x80 == 0 {
                std::str::from_utf8(value).ok()?.parse().ok()
            } else {
                digits(value)
            }
        }
        _ => None,
    }
}

/// Three digits in the Huffman code of RFC 7541, appendix B.
fn digits(bytes: &[u8]) -> Option<u16> {
    let mut bits = String::new();
    for byte in bytes {
        write!(bits, "{byte:08b}").unwrap();
    }
    let mut number = 0;
    let mut rest = bits.as_str();
    for _ in 0..3 {
        let short = u16::from_str_radix(rest.get(..5)?, 2).ok()?;
        let (digit, taken) = if short <= 2 {
            (short, 5)
        } else {
            (u16::from_str_radix(rest.get(..6)?, 2).ok()?.checked_sub(0b01_1001)? + 3, 6)
        };
        number = number * 10 + digit;
        rest = &rest[taken..];
    }
    Some(number)
}
