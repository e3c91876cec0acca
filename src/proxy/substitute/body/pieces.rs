//! The engine of request bodies without a connection around it, for benches and fuzzers: what goes in here goes through the same code.

use http::HeaderMap;

use super::super::tokens::Tokens;
use super::{Kind, Rewrite, Rewriter, opted_in, unfit};
use crate::config::Limits;
use crate::policy::{Denial, RequestPermit};
use crate::secret::SecretName;
use crate::session::Session;

/// One body on its way out, piece by piece.
#[derive(Debug)]
pub struct BodyPieces {
    rewriter: Rewriter,
}

impl BodyPieces {
    /// For a body that streams under these header fields.
    pub async fn of(
        session: &Session,
        permit: &RequestPermit,
        headers: &HeaderMap,
        limits: &Limits,
    ) -> Result<Self, Denial> {
        let tokens = Tokens { session, permit, forwarded: None };
        Ok(Self { rewriter: rewrite(&tokens, headers, limits).rewriter().await? })
    }

    /// Takes a piece, and appends what may leave.
    pub fn push(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Denial> {
        self.rewriter.push(data, out).map_err(unfit)
    }

    /// Appends what was held back: the body has ended.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Denial> {
        self.rewriter.finish(out).map_err(unfit)
    }

    /// The secrets that were opened since this was last asked, each once, and how many tokens went on as they were.
    #[must_use]
    pub fn found(&mut self) -> (Vec<SecretName>, u64) {
        let tally = self.rewriter.tally();
        (tally.opened, tally.passed)
    }
}

/// A whole body under these header fields, as it leaves.
pub async fn open_body(
    session: &Session,
    permit: &RequestPermit,
    headers: &HeaderMap,
    limits: &Limits,
    body: &[u8],
) -> Result<Vec<u8>, Denial> {
    let tokens = Tokens { session, permit, forwarded: None };
    Ok(rewrite(&tokens, headers, limits).whole(body).await?.0)
}

fn rewrite<'a>(tokens: &Tokens<'a>, headers: &HeaderMap, limits: &'a Limits) -> Rewrite<'a> {
    let opted = opted_in(tokens, |locations| locations.body);
    Rewrite { finder: tokens.session.finder().clone(), opted, kind: Kind::of(headers), limits }
}
