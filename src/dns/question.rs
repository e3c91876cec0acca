//! A DNS message → the one question that it asks, or the fault for which it is answered or dropped.
//!
//! Strict where a resolver would be lenient: one question, no other records but one OPT (RFC 6891), no pointers, nothing behind the end.

use hickory_proto::op::{Header, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};

/// A message with one well-formed question.
#[derive(Clone, Debug)]
pub struct Question {
    /// Id and flags of the message.
    pub(super) header: Header,
    /// Name, type and class, the name's letters in the case in which they came.
    pub(super) query: Query,
    /// Whether the message has an OPT record; then the answer has one too.
    pub(super) edns: bool,
}

/// Why a message asks nothing that could be answered.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Not even a header, or an answer: dropped, so that two responders never talk to each other.
    Silent,
    /// Answered with a code; the question is not repeated.
    Answered {
        /// Id and flags of the message.
        header: Header,
        /// The code.
        code: ResponseCode,
        /// Whether the code needs an OPT record to be told.
        edns: bool,
        /// What is wrong, for the audit.
        what: &'static str,
    },
}

/// The longest message that is read, in bytes: what fits a datagram everywhere (RFC 9715).
pub(super) const LONGEST: usize = 1232;

impl Fault {
    /// What the message is answered with, as the audit and the metrics say it.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::Silent => "dropped",
            Self::Answered { .. } => "malformed",
        }
    }

    /// What is wrong.
    pub(super) const fn what(&self) -> &'static str {
        match self {
            Self::Silent => "a message that is no question",
            Self::Answered { what, .. } => what,
        }
    }
}

impl Question {
    /// Reads one message, whole.
    pub fn read(message: &[u8]) -> Result<Self, Fault> {
        let mut decoder = BinDecoder::new(message);
        let Ok(header) = Header::read(&mut decoder) else { return Err(Fault::Silent) };
        if header.metadata.message_type == MessageType::Response || message.len() > LONGEST {
            return Err(Fault::Silent);
        }
        let fault = |code, what| Fault::Answered { header, code, edns: false, what };
        if header.metadata.op_code != OpCode::Query {
            return Err(fault(ResponseCode::NotImp, "another operation than a query"));
        }
        let counts = header.counts;
        // RFC 9619: exactly one question.
        if counts.queries != 1 {
            return Err(fault(ResponseCode::FormErr, "not exactly one question"));
        }
        if counts.answers != 0 || counts.authorities != 0 || counts.additionals > 1 {
            return Err(fault(ResponseCode::FormErr, "records in a question"));
        }
        let malformed = |_error| fault(ResponseCode::FormErr, "a malformed message");
        let query = read_query(&mut decoder).map_err(malformed)?;
        let mut version = None;
        if counts.additionals == 1 {
            version = Some(read_opt(&mut decoder).map_err(malformed)?);
        }
        if !decoder.is_empty() {
            return Err(fault(ResponseCode::FormErr, "bytes behind the end of the message"));
        }
        match version {
            None | Some(0) => Ok(Self { header, query, edns: version.is_some() }),
            Some(_) => Err(Fault::Answered {
                header,
                code: ResponseCode::BADVERS,
                edns: true,
                what: "another version of EDNS",
            }),
        }
    }

    /// The name's labels joined by dots, as bytes: a label may hold any byte, a dot too.
    pub(super) fn name_bytes(&self) -> Vec<u8> {
        self.query.name.iter().collect::<Vec<_>>().join(&b'.')
    }

    /// The name as a text, if every label is of printable ASCII and holds no dot.
    pub(super) fn name_text(&self) -> Option<String> {
        let plain =
            |label: &[u8]| label.iter().all(|&byte| byte.is_ascii_graphic() && byte != b'.');
        if !self.query.name.iter().all(plain) {
            return None;
        }
        String::from_utf8(self.name_bytes()).ok()
    }
}

/// The question, its name without pointers: there is nothing before it that one could point to.
fn read_query(decoder: &mut BinDecoder<'_>) -> Result<Query, DecodeError> {
    let start = decoder.index();
    let query = Query::read(decoder)?;
    if decoder.index() - start == wire_length(&query.name) + 4 {
        Ok(query)
    } else {
        Err(DecodeError::InsufficientBytes)
    }
}

fn wire_length(name: &Name) -> usize {
    name.iter().map(|label| label.len() + 1).sum::<usize>() + 1
}

/// The version of an OPT record (RFC 6891 §6.1.2); its options are walked and not used.
fn read_opt(decoder: &mut BinDecoder<'_>) -> Result<u8, DecodeError> {
    let root = decoder.read_u8()?.unverified();
    let kind = decoder.read_u16()?.unverified();
    if root != 0 || RecordType::from(kind) != RecordType::OPT {
        return Err(DecodeError::InsufficientBytes);
    }
    let _their_buffer = decoder.read_u16()?.unverified();
    let [_extended_code, version, ..] = decoder.read_u32()?.unverified().to_be_bytes();
    let length = usize::from(decoder.read_u16()?.unverified());
    let mut options = BinDecoder::new(decoder.read_slice(length)?.unverified());
    while !options.is_empty() {
        let _code = options.read_u16()?.unverified();
        let length = usize::from(options.read_u16()?.unverified());
        options.read_slice(length)?.unverified();
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `api.allowed.test A IN`, id 0x1234, with RD.
    const PLAIN: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03aPi\x07allowed\x04test\x00\x00\x01\x00\x01";
    const OPT: &[u8] = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00";

    fn with(changes: &[(usize, u8)], more: &[u8]) -> Vec<u8> {
        let mut message = [PLAIN, more].concat();
        for &(at, byte) in changes {
            message[at] = byte;
        }
        message
    }

    fn code(message: &[u8]) -> Option<ResponseCode> {
        match Question::read(message) {
            Ok(_) => Some(ResponseCode::NoError),
            Err(Fault::Answered { code, .. }) => Some(code),
            Err(Fault::Silent) => None,
        }
    }

    #[test]
    fn one_plain_question_is_read_and_its_letters_keep_their_case() {
        let question = Question::read(PLAIN).unwrap();
        assert_eq!(question.name_text().as_deref(), Some("aPi.allowed.test"));
        assert_eq!((question.query.query_type, question.edns), (RecordType::A, false));
        assert!(Question::read(&with(&[(11, 1)], OPT)).unwrap().edns);
    }

    #[test]
    fn everything_that_is_not_one_question_is_a_fault() {
        use ResponseCode::{BADVERS, FormErr, NotImp};
        let two = &PLAIN[12..];
        for (message, expected) in [
            (with(&[(2, 0x81)], b""), None),
            (PLAIN[..11].to_vec(), None),
            (with(&[], &[0; LONGEST]), None),
            (with(&[(2, 0x29)], b""), Some(NotImp)),
            (with(&[(5, 0)], b""), Some(FormErr)),
            (with(&[(5, 2)], two), Some(FormErr)),
            (with(&[(7, 5)], b""), Some(FormErr)),
            (with(&[(9, 1)], OPT), Some(FormErr)),
            (with(&[(11, 2)], &[OPT, OPT].concat()), Some(FormErr)),
            (with(&[(11, 1)], b""), Some(FormErr)),
            (with(&[(11, 1)], b"\x00\x00\x10\x00\x01\x00\x00\x00\x00\x00\x00"), Some(FormErr)),
            (with(&[(11, 1)], b"\x00\x00\x29\x04\xd0\x00\x01\x00\x00\x00\x00"), Some(BADVERS)),
            (
                with(&[(11, 1)], b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x03\x00\x0a\x00"),
                Some(FormErr),
            ),
            (with(&[], b"x"), Some(FormErr)),
            (with(&[(12, 64)], b""), Some(FormErr)),
            (with(&[(12, 191)], b""), Some(FormErr)),
            (with(&[(12, 0xc0), (13, 12)], b""), Some(FormErr)),
            (PLAIN[..20].to_vec(), Some(FormErr)),
            (PLAIN[..12].to_vec(), Some(FormErr)),
        ] {
            assert_eq!(code(&message), expected, "{message:02x?}");
        }
    }

    #[test]
    fn a_label_with_a_dot_or_an_unprintable_byte_is_no_text() {
        for byte in [b'.', 0, b' ', 0xff, 0x1b, b'\n'] {
            let question = Question::read(&with(&[(14, byte)], b"")).unwrap();
            assert_eq!(question.name_text(), None, "{byte:02x}");
        }
    }
}
