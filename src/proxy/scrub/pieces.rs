//! The engine of answers without a connection around it, for benches and fuzzers: what goes in here goes through the same code.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::HeaderMap;

use super::{Bounds, Coding, Decoder, Scrubber, is_grpc};
use crate::config::Limits;
use crate::policy::Denial;
use crate::proxy::record::Exchange;
use crate::secret::{Hide, Needles};

/// The body of one answer on its way back, piece by piece.
#[derive(Debug)]
pub struct AnswerPieces {
    scrubber: Scrubber,
    exchange: Arc<Exchange>,
}

impl AnswerPieces {
    /// For a body that streams under these header fields, in which values are hidden like this.
    pub fn of(
        needles: Arc<Needles>,
        hide: Hide,
        headers: &HeaderMap,
        limits: &Limits,
    ) -> Result<Self, Denial> {
        let exchange = Arc::default();
        let mut scrubber = Scrubber::new(needles, hide, Arc::clone(&exchange));
        if let Some(coding) = Coding::of(headers)? {
            scrubber = scrubber.decoding(Decoder::new(coding, Bounds::new(limits))?);
        }
        if is_grpc(headers) {
            scrubber = scrubber.by_messages();
        }
        Ok(Self { scrubber, exchange })
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

    /// How many values were hidden so far.
    #[must_use]
    pub fn hidden(&self) -> u64 {
        self.exchange.scrubbed.load(Ordering::Relaxed)
    }
}
