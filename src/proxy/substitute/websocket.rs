//! Tokens in the text messages of a WebSocket on their way to the upstream, for secrets that are opted into `websocket`.
//!
//! A text message is held until it is whole, at most `limits.bufferedBody`, and leaves as it came unless a token was opened in it; then it
//! leaves as one frame under a fresh mask. Binary messages and control frames pass as they are. What a client may not send ends the
//! connection with the code that RFC 6455 has for it. The policy of the moment decides about every message with a token.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::de::IgnoredAny;

use super::body::{self, Kind};
use super::encoding::Encoding;
use super::tokens::Tokens;
use crate::host::Scheme;
use crate::policy::{Denial, DenyReason, RequestPermit};
use crate::proxy::frames::{self, FrameError, Frames, Head, Kind as FrameKind, Sender, Stretch};
use crate::proxy::record::Exchange;
use crate::proxy::revoke::StillAllowed;
use crate::session::Session;

/// The messages of one client.
pub(in crate::proxy) struct Messages {
    /// Whose values the answers are searched for.
    session: Arc<Session>,
    still_allowed: StillAllowed,
    exchange: Arc<Exchange>,
    /// The longest text message, in bytes with the heads of its frames.
    most: usize,
    frames: Frames,
    message: Message,
    /// The control frame that has not ended; at most 125 bytes and its head.
    control: Vec<u8>,
    /// How much of the frame's payload came already.
    offset: u64,
}

/// The message that has not ended.
enum Message {
    None,
    Binary,
    Text(Text),
}

#[derive(Default)]
struct Text {
    /// The frames as they came.
    sent: Vec<u8>,
    /// Their payload without masks.
    text: Vec<u8>,
}

/// Why a WebSocket ends.
#[derive(Clone, Debug, thiserror::Error)]
pub(in crate::proxy) enum Violation {
    #[error("{0}")]
    Frame(FrameError),
    #[error("a frame that continues no message, or begins one within another (RFC 6455 §5.4)")]
    OutOfTurn,
    #[error("a text message that is not UTF-8 (RFC 6455 §8.1)")]
    NotText,
    #[error("a text message of more than {0} bytes")]
    TooLong(usize),
    #[error("a secret of this message was given another source since the WebSocket was opened")]
    Changed,
    #[error("{}", .0.detail)]
    Denied(Denial),
}

impl Violation {
    /// The code that both sides are told (RFC 6455 §7.4.1; 1012 is IANA's "service restart": connect again).
    pub(in crate::proxy) const fn code(&self) -> u16 {
        match self {
            Self::Frame(_) | Self::OutOfTurn => 1002,
            Self::NotText => 1007,
            Self::Denied(_) => 1008,
            Self::TooLong(_) => 1009,
            Self::Changed => 1012,
        }
    }
}

impl From<Violation> for Denial {
    fn from(violation: Violation) -> Self {
        let (reason, hint) = match &violation {
            Violation::Denied(denial) => return denial.clone(),
            Violation::Frame(_) | Violation::OutOfTurn | Violation::NotText => {
                (DenyReason::ProtocolNotAllowed, "speak the WebSocket protocol as RFC 6455 says")
            }
            Violation::TooLong(_) => (
                DenyReason::LimitExceeded,
                "send shorter messages, or have an operator raise limits.bufferedBody",
            ),
            Violation::Changed => (DenyReason::SecretUnavailable, "open the WebSocket again"),
        };
        Self::new(reason, violation.to_string(), hint)
    }
}

impl Messages {
    /// None where no secret is opted into the messages of this WebSocket.
    pub(in crate::proxy) fn of(
        session: &Arc<Session>,
        permit: &RequestPermit,
        still_allowed: &StillAllowed,
        exchange: Arc<Exchange>,
        most: usize,
    ) -> Option<Self> {
        let mut secrets = permit.secrets().iter();
        if permit.scheme() == Scheme::Http || !secrets.any(|bound| bound.locations.websocket) {
            return None;
        }
        Some(Self {
            session: session.clone(),
            still_allowed: still_allowed.clone(),
            exchange,
            most,
            frames: Frames::of(Sender::Client),
            message: Message::None,
            control: Vec::new(),
            offset: 0,
        })
    }

    /// Takes what the client sent next, and appends what may leave: whole frames, and pieces of binary ones.
    pub(in crate::proxy) async fn push(
        &mut self,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Violation> {
        let mut stretches = Vec::new();
        let followed = self.frames.follow(data, 0, |stretch| stretches.push(stretch));
        for Stretch { head, kind, at, begins, ends } in stretches {
            let payload = data.get(at).unwrap_or_default();
            if begins {
                self.offset = 0;
                self.begin(&head, kind)?;
            }
            if kind == FrameKind::Control {
                self.control.extend_from_slice(if begins { head.bytes() } else { &[] });
                self.control.extend_from_slice(payload);
                if ends {
                    out.append(&mut self.control);
                }
                continue;
            }
            match &mut self.message {
                Message::None => {}
                Message::Binary => {
                    out.extend_from_slice(if begins { head.bytes() } else { &[] });
                    out.extend_from_slice(payload);
                }
                Message::Text(message) => {
                    message.sent.extend_from_slice(if begins { head.bytes() } else { &[] });
                    message.sent.extend_from_slice(payload);
                    message.text.extend(frames::masked(payload, head.mask(), self.offset));
                }
            }
            self.offset += payload.len() as u64;
            if ends && kind == FrameKind::LastOfMessage {
                self.end(out).await?;
            }
        }
        followed.map_err(Violation::Frame)
    }

    /// A frame begins: it must be its turn, and its message must stay within bounds.
    fn begin(&mut self, head: &Head, kind: FrameKind) -> Result<(), Violation> {
        if kind == FrameKind::Control {
            return Ok(());
        }
        match (head.opcode(), &self.message) {
            (0, Message::None) => return Err(Violation::OutOfTurn),
            (0, _) => {}
            (1, Message::None) => self.message = Message::Text(Text::default()),
            (_, Message::None) => self.message = Message::Binary,
            _ => return Err(Violation::OutOfTurn),
        }
        if let Message::Text(message) = &self.message {
            let more = usize::try_from(head.payload()).unwrap_or(usize::MAX);
            let length = message.sent.len().saturating_add(head.bytes().len());
            if length.saturating_add(more) > self.most {
                return Err(Violation::TooLong(self.most));
            }
        }
        Ok(())
    }

    async fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Violation> {
        let Message::Text(message) = std::mem::replace(&mut self.message, Message::None) else {
            return Ok(());
        };
        str::from_utf8(&message.text).map_err(|_error| Violation::NotText)?;
        match self.opened(&message.text).await? {
            Some(text) => {
                let mut mask = [0; 4];
                aws_lc_rs::rand::fill(&mut mask).map_err(|_error| Violation::Changed)?;
                frames::write_text(&text, mask, out);
            }
            None => out.extend_from_slice(&message.sent),
        }
        Ok(())
    }

    /// The text with its tokens opened; none if it leaves as it came.
    async fn opened(&self, text: &[u8]) -> Result<Option<Vec<u8>>, Violation> {
        let finder = self.session.finder();
        let tokens = |encoding: Encoding| finder.find(&encoding.decode(text, finder).text).count();
        // Most messages hold no token in either reading, and need not be parsed.
        let is_plain = tokens(Encoding::Raw) == 0;
        if is_plain && (memchr::memchr(b'\\', text).is_none() || tokens(Encoding::Json) == 0) {
            return Ok(None);
        }
        let encoding = encoding(text);
        let tokens_in_text = tokens(encoding) as u64;
        if tokens_in_text == 0 {
            return Ok(None);
        }
        let (session, permit) = self.still_allowed.permit().map_err(Violation::Denied)?;
        let forwarded = &self.exchange.tokens_forwarded;
        let tokens = Tokens { session: &session, permit: &permit, forwarded: Some(forwarded) };
        let opted = body::opted_in(&tokens, |locations| locations.websocket);
        if opted.is_empty() {
            self.exchange.tokens_in_body.fetch_add(tokens_in_text, Ordering::Relaxed);
            return Ok(None);
        }
        let known = |secret: &&crate::session::SealedSecret| {
            let before = self.session.by_name(&secret.bound.name);
            before.is_some_and(|before| Arc::ptr_eq(&before.live, &secret.live))
        };
        let kind = Kind::Text(encoding);
        let needed =
            body::needed(session.finder(), &opted, &kind, text).map_err(Violation::Denied)?;
        if !needed.iter().all(known) {
            return Err(Violation::Changed);
        }
        let (text, tally) = body::whole(session.finder(), needed, &kind, text, self.most)
            .await
            .map_err(Violation::Denied)?;
        let unopened = tally.opened.is_empty();
        body::note(&self.exchange, tally, "websocket");
        Ok((!unopened).then_some(text))
    }
}

/// A message says nothing of its kind: it is read as JSON if all of it is, from the first brace, bracket or quote on; some protocols put a
/// number in front.
fn encoding(text: &[u8]) -> Encoding {
    let json = text.iter().position(|byte| matches!(byte, b'{' | b'[' | b'"'));
    let json = json.and_then(|at| text.get(at..));
    match json.map(serde_json::from_slice::<IgnoredAny>) {
        Some(Ok(_)) => Encoding::Json,
        _ => Encoding::Raw,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_told_from_other_text() {
        for (text, expected) in [
            (r#"{"a": "b"}"#, Encoding::Json),
            (r#"42["message", "x"]"#, Encoding::Json),
            (r#" "x" "#, Encoding::Json),
            (r#"say "x" aloud"#, Encoding::Raw),
            (r#"{"a": "#, Encoding::Raw),
            ("plain", Encoding::Raw),
            ("", Encoding::Raw),
        ] {
            assert_eq!(encoding(text.as_bytes()), expected, "{text}");
        }
    }
}
