//! Bodies for the fuzz targets: rewritten or counted piece by piece.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use super::count::Counter;
use super::text::Values;
use super::{Kind, Rewriter};
use crate::secret::{SealedToken, SecretName, TokenFinder};

/// A body as it leaves, and what was found in it.
#[derive(Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// The body.
    pub body: Vec<u8>,
    /// The secrets that were opened, each once.
    pub opened: Vec<SecretName>,
    /// How many tokens went on as they were.
    pub passed: u64,
}

/// Rewrites a body of this type that comes in these pieces, of which gRPC messages up to `most` bytes are looked at; or gives why a token cannot be
/// opened in it.
pub fn rewrite<'p>(
    content_type: &'static str,
    finder: &Arc<TokenFinder>,
    secrets: &[(SealedToken, SecretName, Vec<u8>)],
    most: usize,
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> Result<Rewritten, String> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    let kind = Kind::of(&headers);
    let mut values = Values::default();
    for (token, name, value) in secrets {
        values.add(token, name.clone(), value, &kind);
    }
    let mut rewriter = Rewriter::new(finder.clone(), Arc::new(values), &kind, most);
    let mut body = Vec::new();
    for piece in pieces {
        rewriter.push(piece, &mut body).map_err(|unfit| format!("{unfit:?}"))?;
    }
    rewriter.finish(&mut body).map_err(|unfit| format!("{unfit:?}"))?;
    let tally = rewriter.tally();
    Ok(Rewritten { body, opened: tally.opened, passed: tally.passed })
}

/// How many tokens are counted in a body that comes in these pieces and goes on as it is.
pub fn count<'p>(finder: &Arc<TokenFinder>, pieces: impl IntoIterator<Item = &'p [u8]>) -> u64 {
    let mut counter = Counter::new(finder.clone());
    pieces.into_iter().map(|piece| counter.count(piece)).sum()
}
