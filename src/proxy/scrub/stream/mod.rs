//! Scrubbing while a body streams: constant memory, and no byte waits longer than it may be part of a value.
//!
//! What holds no value goes on as the same memory that came, except for the few bytes at the seam of two pieces.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::HeaderMap;

use super::decode::{Decoder, Unreadable};
use super::fields;
use super::messages::Messages;
use crate::proxy::record::Exchange;
use crate::secret::{Hide, Needles};

/// The state between two pieces of one body.
#[derive(Debug)]
pub(in crate::proxy) struct Scrubber {
    needles: Arc<Needles>,
    hide: Hide,
    /// Where hidden values are counted.
    exchange: Arc<Exchange>,
    /// What makes an encoded body readable, until it was read to its end.
    decoder: Option<Box<Decoder>>,
    /// Where messages end that the other side waits for, if the body is made of such.
    messages: Option<Messages>,
    /// The end of what came so far, which may be the start of a value.
    carry: Vec<u8>,
    /// What is settled and not yet taken: two pieces at most.
    ready: VecDeque<Bytes>,
    /// Nothing more will come.
    ended: bool,
    /// Why nothing more leaves.
    unreadable: Option<Unreadable>,
}

/// Below this length a copy costs less than a frame of its own for what was held back.
const WORTH_A_FRAME: usize = 32 * 1024;

impl Scrubber {
    pub(in crate::proxy) fn new(
        needles: Arc<Needles>,
        hide: Hide,
        exchange: Arc<Exchange>,
    ) -> Self {
        Self {
            needles,
            hide,
            exchange,
            decoder: None,
            messages: None,
            carry: Vec::new(),
            ready: VecDeque::new(),
            ended: false,
            unreadable: None,
        }
    }

    /// Every message leaves when its last byte has come.
    pub(super) fn by_messages(self) -> Self {
        Self { messages: Some(Messages::default()), ..self }
    }

    /// The body is encoded; what leaves is not.
    pub(super) fn decoding(self, decoder: Decoder) -> Self {
        Self { decoder: Some(Box::new(decoder)), ..self }
    }

    /// Takes the next piece of the body, after all that was settled has been taken.
    pub(in crate::proxy) fn push(&mut self, data: &Bytes) {
        match &mut self.decoder {
            Some(decoder) => decoder.push(data),
            None => self.take(data),
        }
    }

    /// The body has ended: nothing is held back any more.
    pub(in crate::proxy) fn finish(&mut self) {
        self.ended = true;
    }

    /// What is settled, piece by piece.
    pub(in crate::proxy) fn next(&mut self) -> Result<Option<Bytes>, Unreadable> {
        loop {
            if let Some(settled) = self.ready.pop_front() {
                return Ok(Some(settled));
            }
            if let Some(unreadable) = self.unreadable {
                return Err(unreadable);
            }
            match &mut self.decoder {
                Some(decoder) => match decoder.next()? {
                    Some(piece) => self.take(&piece),
                    None if self.ended => {
                        decoder.finish()?;
                        self.decoder = None;
                    }
                    None => return Ok(None),
                },
                None if self.ended && !self.carry.is_empty() => self.let_go(),
                None => return Ok(None),
            }
        }
    }

    /// Gives back what was taken, to be given again.
    pub(super) fn put_back(&mut self, settled: Bytes) {
        self.ready.push_front(settled);
    }

    /// Whether nothing is held back.
    pub(in crate::proxy) fn is_empty(&self) -> bool {
        let held = !self.carry.is_empty() || !self.ready.is_empty() || self.decoder.is_some();
        !held && self.unreadable.is_none()
    }

    /// Whether the body is still being decoded.
    pub(super) const fn decodes(&self) -> bool {
        self.decoder.is_some()
    }

    /// Whether the body's length stays what it was.
    pub(in crate::proxy) fn keeps_length(&self) -> bool {
        self.hide == Hide::Mask && self.decoder.is_none()
    }

    /// What is searched for.
    pub(in crate::proxy) fn needles(&self) -> &Needles {
        &self.needles
    }

    /// Hides values in the fields that follow the body, and drops what would describe the body as it came; how many values were hidden.
    pub(in crate::proxy) fn trailers(&self, trailers: &mut HeaderMap) -> u64 {
        fields::may_be_rewritten(trailers);
        self.needles.scrub_headers(trailers)
    }

    /// Searches a piece, together with what was held back before it.
    fn take(&mut self, data: &Bytes) {
        let ended = match self.messages.as_mut().map_or(Ok(0), |messages| messages.follow(data)) {
            Ok(ended) => ended,
            Err(unreadable) => {
                self.unreadable = Some(unreadable);
                return;
            }
        };
        if self.carry.is_empty() || self.lets_go_before(data) {
            self.scan(data, ended);
        } else {
            let ended = if ended > 0 { self.carry.len() + ended } else { 0 };
            let mut text = std::mem::take(&mut self.carry);
            text.reserve_exact(data.len());
            text.extend_from_slice(data);
            self.scan(&Bytes::from(text), ended);
        }
    }

    /// Settles what was held back: nothing follows it.
    fn let_go(&mut self) {
        let text = std::mem::take(&mut self.carry);
        self.hide(&text, text.len());
    }

    /// Settles what was held back if no value begins in it, so that a long piece need not be copied.
    fn lets_go_before(&mut self, data: &[u8]) -> bool {
        let reach = self.needles.longest();
        if data.len() < WORTH_A_FRAME.max(reach) {
            return false;
        }
        let held = self.carry.len();
        self.carry.extend_from_slice(data.get(..reach).unwrap_or_default());
        let free = !self.needles.is_in(&self.carry);
        self.carry.truncate(held);
        if free {
            let held = std::mem::take(&mut self.carry);
            self.settle(Bytes::from(held));
        }
        free
    }

    /// Settles a text up to what may be the start of a value; its first `ended` bytes are whole messages.
    fn scan(&mut self, text: &Bytes, ended: usize) {
        let settled = ended.max(text.len() - self.needles.undecided(text));
        if !self.needles.is_in(text) {
            self.carry.extend_from_slice(text.get(settled..).unwrap_or_default());
            self.settle(text.slice(..settled));
            return;
        }
        self.hide(text, settled);
    }

    /// Settles a text up to there with its values hidden.
    fn hide(&mut self, text: &[u8], settled: usize) {
        let mut out = Vec::with_capacity(text.len());
        let (consumed, hits) = self.needles.hide(text, settled, self.hide, &mut out);
        self.exchange.scrubbed.fetch_add(hits, Ordering::Relaxed);
        self.carry.extend_from_slice(text.get(consumed..).unwrap_or_default());
        self.settle(Bytes::from(out));
    }

    fn settle(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.ready.push_back(bytes);
        }
    }
}

#[cfg(test)]
mod tests;
