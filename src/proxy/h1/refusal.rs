//! Why a message was refused: one variant per rule, one sentence each, and never a byte of what the peer sent.

use std::io;

/// Why a request head was refused; what decides the status of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadRefusal {
    /// The head breaks the grammar or contradicts itself: 400.
    #[error("malformed request head: {0}")]
    Malformed(#[from] Malformed),
    /// The request target is longer than the limit: 414.
    #[error("the request target is too long; shorten the path or move the query into a body")]
    TargetTooLong,
    /// The head is longer than the limit: 431.
    #[error("the request head is too large; send fewer or shorter fields")]
    HeadTooLarge,
    /// The head has more fields than the limit: 431.
    #[error("the request head has too many fields; send fewer of them")]
    TooManyFields,
    /// `Expect` asks for something other than `100-continue`: 417.
    #[error("the only expectation that is understood is `100-continue`")]
    Expectation,
    /// A well-formed version that is neither HTTP/1.0 nor HTTP/1.1, the HTTP/2 preface included: 505.
    #[error("this connection speaks HTTP/1.1 and HTTP/1.0 only")]
    Version,
    /// hyper found a request where the guard saw none. It cannot happen while both agree, and is refused: 400.
    #[error("the request was not seen by the strict reading of the connection")]
    OutOfStep,
}

/// Why the body of a request or response was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyRefusal {
    /// A chunk size is not 1 to 16 hexadecimal digits and CRLF; chunk extensions are refused too.
    #[error(
        "a chunk size is not 1 to 16 hexadecimal digits and CRLF (chunk extensions are not accepted)"
    )]
    ChunkSize,
    /// The data of a chunk is not followed by CRLF.
    #[error("the data of a chunk is not followed by CRLF")]
    ChunkEnd,
    /// The trailer section is not made of strict field lines.
    #[error("the trailer section is malformed")]
    Trailer,
    /// The trailer section is longer than a head may be, or has more fields.
    #[error("the trailer section is too large")]
    TrailerTooLarge,
}

/// Why a response was refused, and with it the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseRefusal {
    /// The head breaks the grammar or contradicts itself.
    #[error("malformed response head: {0}")]
    Malformed(#[from] Malformed),
    /// The head is longer than the limit.
    #[error("the response head is too large")]
    HeadTooLarge,
    /// The head has more fields than the limit.
    #[error("the response head has too many fields")]
    TooManyFields,
    /// Bytes came that answer no request.
    #[error("the upstream sent bytes that answer no request")]
    Unsolicited,
    /// `101 Switching Protocols` to a request that did not ask for an upgrade.
    #[error("the upstream switched protocols without being asked")]
    UnexpectedSwitch,
    /// More interim responses than any server needs.
    #[error("the upstream sent too many interim responses")]
    TooManyInterim,
    /// The body breaks its framing.
    #[error("malformed response body: {0}")]
    Body(#[from] BodyRefusal),
}

/// A rule of the grammar or of framing that a head breaks; shared by requests and responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A CR without LF or an LF without CR, anywhere in the head.
    #[error("every line ends with CRLF, and CR and LF appear nowhere else")]
    LineEnding,
    /// Not `METHOD SP target SP HTTP/1.1`; an empty first line and HTTP/0.9 are this too.
    #[error("the request line is not `METHOD target HTTP/1.1` with single spaces")]
    RequestLine,
    /// The target holds a byte that must be percent-encoded.
    #[error("the request target holds a character that must be percent-encoded")]
    Target,
    /// Not `HTTP/1.1 SP 3DIGIT [SP reason]`.
    #[error("the status line is not `HTTP/1.1 200 reason`")]
    StatusLine,
    /// A line that begins with white space (obs-fold).
    #[error("a line begins with white space; folded lines are not accepted")]
    Folded,
    /// A field name that is empty, is not a token, or is not followed at once by a colon.
    #[error("a field name is not a token followed by a colon")]
    FieldName,
    /// A control character in a field value.
    #[error("a field value holds a control character")]
    FieldValue,
    /// No `Host` field.
    #[error("the Host field is missing")]
    HostMissing,
    /// More than one `Host` field, equal or not.
    #[error("the Host field appears more than once")]
    HostRepeated,
    /// An empty `Host`, or one with user information, a list, a path or white space.
    #[error("the Host field is not one host with an optional port")]
    Host,
    /// `Content-Length` that is not a plain decimal number of at most 19 digits.
    #[error("Content-Length is not a plain decimal number")]
    ContentLength,
    /// More than one `Content-Length`, equal or not.
    #[error("Content-Length appears more than once")]
    ContentLengthRepeated,
    /// `Transfer-Encoding` other than exactly one `chunked`.
    #[error("Transfer-Encoding is not exactly one `chunked`")]
    TransferEncoding,
    /// `Transfer-Encoding` in an HTTP/1.0 message.
    #[error("HTTP/1.0 has no Transfer-Encoding")]
    TransferEncodingVersion,
    /// Both `Content-Length` and `Transfer-Encoding`.
    #[error("Content-Length and Transfer-Encoding exclude each other")]
    TwoFramings,
    /// CONNECT with `Content-Length` or `Transfer-Encoding`.
    #[error("CONNECT has no body; leave Content-Length and Transfer-Encoding out")]
    ConnectBody,
}

impl From<BodyRefusal> for io::Error {
    fn from(refusal: BodyRefusal) -> Self {
        Self::new(io::ErrorKind::InvalidData, refusal)
    }
}

impl From<ResponseRefusal> for io::Error {
    fn from(refusal: ResponseRefusal) -> Self {
        Self::new(io::ErrorKind::InvalidData, refusal)
    }
}
