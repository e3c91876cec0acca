//! The engine of answers without a connection around it, for benches and fuzzers: what goes in here goes through the same code.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;

use super::{Bounds, Coding, Decoder, Scrubber};
use crate::config::Limits;
use crate::policy::Denial;
use crate::secret::{Hide, Needles};

/// The body of one answer on its way back, piece by piece.
#[derive(Debug)]
pub struct AnswerPieces {
    scrubber: Scrubber,
}

impl AnswerPieces {
    /// For a body that streams under these header fields.
    pub fn of(needles: Arc<Needles>, headers: &HeaderMap, limits: &Limits) -> Result<Self, Denial> {
        let scrubber = Scrubber::new(needles, Hide::Replace, Arc::default());
        let scrubber = match Coding::of(headers)? {
            Some(coding) => scrubber.decoding(Decoder::new(coding, Bounds::new(limits))?),
            None => scrubber,
        };
        Ok(Self { scrubber })
    }

    /// Takes a piece, after [`AnswerPieces::next`] gave nothing more.
    pub fn push(&mut self, data: &Bytes) {
        self.scrubber.push(data);
    }

    /// What may leave; none until more is pushed.
    #[expect(clippy::should_implement_trait, reason = "it goes on after none")]
    pub fn next(&mut self) -> Result<Option<Bytes>, Denial> {
        Ok(self.scrubber.next()?)
    }

    /// The body has ended: [`AnswerPieces::next`] gives what was held back.
    pub fn finish(&mut self) {
        self.scrubber.finish();
    }
}
