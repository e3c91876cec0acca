//! Tokens in the request target. No secret is bound to a place in the URL, so a token there, however it is percent-encoded, ends the request.

use http::Uri;
use percent_encoding::percent_decode_str;

use super::tokens::{self, Place, Tokens};
use crate::policy::Denial;
use crate::secret::SealedToken;

/// Refuses a target that holds a token.
pub(super) fn check(tokens: &Tokens<'_>, uri: &Uri) -> Result<(), Denial> {
    let Some(target) = uri.path_and_query() else { return Ok(()) };
    check_text(tokens, target.as_str().as_bytes())?;
    if !target.as_str().contains('%') {
        return Ok(());
    }
    let decoded: Vec<u8> = percent_decode_str(target.as_str()).collect();
    check_text(tokens, &decoded)
}

fn check_text(tokens: &Tokens<'_>, text: &[u8]) -> Result<(), Denial> {
    let Some(start) = tokens::find(text, 0) else { return Ok(()) };
    let token = text.get(start..start + SealedToken::LEN).unwrap_or_default();
    tokens.secret(token, Place::Url).map(|_secret| ())
}
