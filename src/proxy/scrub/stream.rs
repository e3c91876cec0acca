//! Scrubbing while a body streams: constant memory, and no byte waits longer than it may be part of a value.

use std::sync::Arc;

use bytes::Bytes;

use crate::secret::{Hide, Needles};

/// The state between two pieces of one body.
#[derive(Debug)]
pub(in crate::proxy) struct Scrubber {
    needles: Arc<Needles>,
    hide: Hide,
    /// The end of what came so far, which may be the start of a value.
    carry: Vec<u8>,
    hits: u64,
}

impl Scrubber {
    pub(in crate::proxy) const fn new(needles: Arc<Needles>, hide: Hide) -> Self {
        Self { needles, hide, carry: Vec::new(), hits: 0 }
    }

    /// Takes a piece, and gives what of it and of the pieces before is settled.
    pub(in crate::proxy) fn pass(&mut self, data: &Bytes) -> Bytes {
        let undecided = |text: &[u8]| text.len() - self.needles.undecided(text);
        if self.carry.is_empty() && !self.needles.is_in(data) {
            let settled = undecided(data);
            self.carry.extend_from_slice(data.get(settled..).unwrap_or_default());
            return data.slice(..settled);
        }
        let mut text = std::mem::take(&mut self.carry);
        text.extend_from_slice(data);
        let settled = undecided(&text);
        let mut out = Vec::with_capacity(text.len());
        let (consumed, hits) = self.needles.hide(&text, settled, self.hide, &mut out);
        self.hits += hits;
        self.carry.extend_from_slice(text.get(consumed..).unwrap_or_default());
        Bytes::from(out)
    }

    /// The body has ended: gives what is left.
    pub(in crate::proxy) fn finish(&mut self) -> Bytes {
        let text = std::mem::take(&mut self.carry);
        let mut out = Vec::with_capacity(text.len());
        let (_, hits) = self.needles.hide(&text, text.len(), self.hide, &mut out);
        self.hits += hits;
        Bytes::from(out)
    }

    /// How many values were hidden.
    pub(in crate::proxy) const fn hits(&self) -> u64 {
        self.hits
    }

    /// Whether nothing is held back.
    pub(in crate::proxy) const fn is_empty(&self) -> bool {
        self.carry.is_empty()
    }

    /// Whether the body's length stays what it was.
    pub(in crate::proxy) fn keeps_length(&self) -> bool {
        self.hide == Hide::Mask
    }

    /// What is searched for.
    pub(in crate::proxy) fn needles(&self) -> &Needles {
        &self.needles
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{SealKey, SecretValue};

    #[test]
    fn every_split_of_a_stream_gives_what_the_whole_gives() {
        let value = "sk-live-0123456789abcdef";
        let token = SealKey::new(&[1; 32]).seal(&"sb".parse().unwrap(), 0, &"KEY".parse().unwrap());
        let needles = Arc::new(Needles::new(&[(
            token,
            Arc::new(SecretValue::new(value.as_bytes().to_vec()).unwrap()),
        )]));
        let body = format!("{value}{value} a {value}\nsk-live-0123456789 {value}sk-live-{value}");
        let body = body.as_bytes();
        let mut whole = Vec::new();
        needles.hide(body, body.len(), Hide::Replace, &mut whole);
        assert!(!String::from_utf8_lossy(&whole).contains(value));
        for first in 0..body.len() {
            for second in first..body.len() {
                let mut scrubber = Scrubber::new(needles.clone(), Hide::Replace);
                let mut streamed = Vec::new();
                for piece in [&body[..first], &body[first..second], &body[second..]] {
                    streamed.extend_from_slice(&scrubber.pass(&Bytes::copy_from_slice(piece)));
                }
                streamed.extend_from_slice(&scrubber.finish());
                assert_eq!(streamed, whole, "split at {first} and {second}");
            }
        }
    }
}
