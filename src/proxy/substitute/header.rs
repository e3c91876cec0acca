//! Tokens in header fields, also inside the base64 of `Authorization: Basic`.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::OpenedAt;
use super::tokens::{self, Place, Room, Tokens, value_of};
use crate::policy::{Denial, DenyReason};

/// Opens every token of the fields; a token that may not be opened where it stands ends the request.
pub(super) async fn open(
    tokens: &Tokens<'_>,
    headers: &mut HeaderMap,
) -> Result<Vec<OpenedAt>, Denial> {
    let mut log = Vec::new();
    let mut room = Room::of_head();
    for (name, field) in headers.iter_mut() {
        if let Some(found) = tokens.found(name.as_str().as_bytes()).next() {
            tokens.secret(
                name.as_str().as_bytes().get(found).unwrap_or_default(),
                Place::Header(name),
            )?;
            let detail = "a sealed token as the name of a header field";
            return Err(Denial::new(
                DenyReason::SecretMisdirected,
                detail,
                "send it as a field's value",
            ));
        }
        if let Some(value) = opened(tokens, name, field.as_bytes(), &mut log, &mut room).await? {
            let value = HeaderValue::from_bytes(&value);
            let mut value = value.map_err(|_error| {
                Denial::new(
                    DenyReason::SecretUnavailable,
                    "a value cannot stand in a header field",
                    "",
                )
            })?;
            value.set_sensitive(true);
            *field = value;
        }
    }
    Ok(log)
}

/// The field's bytes with every token opened; `None` if it holds none, so that it leaves exactly as it came.
async fn opened(
    tokens: &Tokens<'_>,
    name: &HeaderName,
    field: &[u8],
    log: &mut Vec<OpenedAt>,
    room: &mut Room,
) -> Result<Option<Zeroizing<Vec<u8>>>, Denial> {
    if tokens.are_in(field) {
        return replaced(tokens, name, field, log, room).await.map(Some);
    }
    let Some((scheme, credentials)) = basic(name, field) else { return Ok(None) };
    let Ok(decoded) = STANDARD.decode(credentials) else {
        return refuse_odd_base64(tokens, name, credentials);
    };
    let decoded = Zeroizing::new(decoded);
    if !tokens.are_in(&decoded) {
        return Ok(None);
    }
    let replaced = replaced(tokens, name, &decoded, log, room).await?;
    let mut value =
        Zeroizing::new(Vec::with_capacity(scheme.len() + replaced.len().div_ceil(3) * 4));
    value.extend_from_slice(scheme);
    value.extend_from_slice(Zeroizing::new(STANDARD.encode(&*replaced)).as_bytes());
    Ok(Some(value))
}

/// `Basic` in any letter case with the space behind it, or the tab that some servers read as one; and what follows.
fn basic<'f>(name: &HeaderName, field: &'f [u8]) -> Option<(&'f [u8], &'f [u8])> {
    if *name != AUTHORIZATION {
        return None;
    }
    let (scheme, credentials) = field.split_at_checked(b"basic ".len())?;
    let space = matches!(scheme.last(), Some(b' ' | b'\t'));
    let named = scheme.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"basic"));
    (space && named).then_some((scheme, credentials))
}

/// Base64 that does not round-trip cannot be rewritten faithfully; if a lenient reader would find a token in it, it may not pass either.
fn refuse_odd_base64(
    tokens: &Tokens<'_>,
    name: &HeaderName,
    credentials: &[u8],
) -> Result<Option<Zeroizing<Vec<u8>>>, Denial> {
    use base64::alphabet;
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    let lenient = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let plain: Vec<u8> =
        credentials.iter().copied().filter(|b| !matches!(b, b' ' | b'\t' | b'=')).collect();
    let holds_token = [alphabet::STANDARD, alphabet::URL_SAFE]
        .iter()
        .filter_map(|alphabet| GeneralPurpose::new(alphabet, lenient).decode(&plain).ok())
        .any(|decoded| tokens.are_in(&decoded));
    if holds_token {
        let detail =
            format!("a sealed token in `{name}`, inside base64 that is not in its canonical form");
        return Err(Denial::new(
            DenyReason::SecretMisdirected,
            detail,
            "encode the credentials as RFC 7617 and RFC 4648 §4 say, with padding",
        ));
    }
    Ok(None)
}

/// One pass from left to right; what is written is not read again.
async fn replaced(
    tokens: &Tokens<'_>,
    name: &HeaderName,
    text: &[u8],
    log: &mut Vec<OpenedAt>,
    room: &mut Room,
) -> Result<Zeroizing<Vec<u8>>, Denial> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() + 128));
    let mut copied = 0;
    for Range { start, end } in tokens.found(text) {
        let written = text.get(start..end).unwrap_or_default();
        let Some(secret) = tokens.secret(written, Place::Header(name))? else { continue };
        let value = value_of(secret).await?;
        if !value.fits_header() {
            return Err(tokens::unfit(&secret.bound.name, "a header field"));
        }
        room.take(value.len())?;
        out.extend_from_slice(text.get(copied..start).unwrap_or_default());
        out.extend_from_slice(value.expose());
        log.push(OpenedAt {
            secret: secret.bound.name.clone(),
            place: ["header:", name.as_str()].concat(),
        });
        copied = end;
    }
    out.extend_from_slice(text.get(copied..).unwrap_or_default());
    Ok(out)
}
