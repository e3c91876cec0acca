//! Answers for the fuzz targets: decoded and scrubbed piece by piece.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::decode::{Bounds, Coding, Decoder, Unreadable};
use super::stream::Scrubber;
use crate::config::Limits;
use crate::proxy::record::Exchange;
use crate::secret::{Hide, Needles};

/// Decodes a body of this coding that comes in these pieces. Gives what came out and, if it was cut, why.
pub fn decode<'p>(
    coding: &str,
    limits: &Limits,
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> (Vec<u8>, Result<(), String>) {
    let mut out = Vec::new();
    let ended = decode_into(&mut out, coding, limits, pieces);
    (out, ended.map_err(|unreadable| format!("{unreadable:?}")))
}

fn decode_into<'p>(
    out: &mut Vec<u8>,
    coding: &str,
    limits: &Limits,
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> Result<(), Unreadable> {
    let mut decoder = decoder(coding, limits)?;
    for piece in pieces {
        decoder.push(&Bytes::copy_from_slice(piece));
        while let Some(piece) = decoder.next()? {
            out.extend_from_slice(&piece);
        }
    }
    decoder.finish()
}

/// Scrubs a body that comes in these pieces, encoded or made of gRPC messages if need be. `told` hears how much came in and what came out of it
/// after every piece; gives how many values were hidden.
pub fn scrub<'p>(
    needles: &Arc<Needles>,
    hide: Hide,
    by_messages: bool,
    encoded: Option<(&str, &Limits)>,
    pieces: impl IntoIterator<Item = &'p [u8]>,
    mut told: impl FnMut(usize, &[u8]),
) -> Result<u64, String> {
    let exchange: Arc<Exchange> = Arc::default();
    let mut scrubber = Scrubber::new(needles.clone(), hide, exchange.clone());
    if by_messages {
        scrubber = scrubber.by_messages();
    }
    if let Some((coding, limits)) = encoded {
        let decoder = decoder(coding, limits).map_err(|unreadable| format!("{unreadable:?}"))?;
        scrubber = scrubber.decoding(decoder);
    }
    let mut came = 0;
    let mut out = Vec::new();
    for piece in pieces {
        scrubber.push(&Bytes::copy_from_slice(piece));
        came += piece.len();
        drain(&mut scrubber, &mut out)?;
        told(came, &out);
    }
    scrubber.finish();
    drain(&mut scrubber, &mut out)?;
    told(came, &out);
    Ok(exchange.scrubbed.load(Ordering::Relaxed))
}

fn drain(scrubber: &mut Scrubber, out: &mut Vec<u8>) -> Result<(), String> {
    while let Some(settled) = scrubber.next().map_err(|unreadable| format!("{unreadable:?}"))? {
        out.extend_from_slice(&settled);
    }
    Ok(())
}

fn decoder(coding: &str, limits: &Limits) -> Result<Decoder, Unreadable> {
    let coding = Coding::parse(coding).ok_or(Unreadable::Unknown)?;
    Decoder::new(coding, Bounds::new(limits))
}
