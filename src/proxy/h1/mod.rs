//! The strict reading of HTTP/1 in front of hyper: hyper never sees a byte that this reading did not accept.
//!
//! hyper is lenient where two parsers can disagree about where a message ends or for whom it is (bare LF, repeated
//! `Host`, `Content-Length` beside `Transfer-Encoding`). [`RequestGuard`] wraps the stream of a client, and
//! [`ResponseGuard`] that of an upstream. They read every head by the letter, walk every body to its end, and pass on
//! what they accepted, byte for byte. Both sides of the proxy then agree on every boundary, because there is one reading.
//!
//! Refused among others: line ends other than CRLF, empty lines before a head, folded lines, space before a colon,
//! controls in values, more or less than one `Host`, lengths that are repeated or not plain digits, any transfer coding
//! but one `chunked`, chunk extensions, CONNECT with a body, expectations other than `100-continue`, versions other
//! than 1.0 and 1.1. Whom a request is for (target and `Host` as an authority) is decided by the steps above.

mod body;
mod grammar;
mod guard;
mod refusal;
mod request;
mod request_head;
mod response;
mod response_head;
#[cfg(test)]
mod tests;

pub use self::{
    guard::Guard,
    refusal::{BodyRefusal, HeadRefusal, Malformed, ResponseRefusal},
    request::{RequestGuard, RequestVerdicts, RequestWalk},
    response::{ExpectedResponse, ResponseExpectations, ResponseGuard, ResponseWalk},
};

/// Status and length of a response head that stands at the beginning, once it is whole; `None` until then.
pub(super) fn status_of_head(
    bytes: &[u8],
    limits: &HeadLimits,
) -> Result<Option<(u16, usize)>, ResponseRefusal> {
    let accepted = response_head::ResponseHead::default().walk(bytes, limits)?;
    Ok(accepted.map(|head| (head.status, head.head_len)))
}

/// How large a head may be. A head of exactly this size passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the whole head, the empty line included; also of a trailer section.
    pub head_bytes: usize,
    /// Bytes of the request target. hyper takes no more than 65534, and neither does the guard.
    pub target_bytes: usize,
    /// Field lines of a head; also of a trailer section.
    pub fields: usize,
}

impl HeadLimits {
    fn within_hyper(self) -> Self {
        Self { target_bytes: self.target_bytes.min(HYPER_TARGET_BYTES), ..self }
    }
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { head_bytes: 64 * 1024, target_bytes: 32 * 1024, fields: 100 }
    }
}

/// hyper's own limit of a request target.
const HYPER_TARGET_BYTES: usize = 65_534;
