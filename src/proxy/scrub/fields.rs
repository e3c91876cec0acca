//! The fields of an answer's head: true to the body as it leaves, and none that lead around the proxy.

use bytes::Bytes;
use http::header::{
    ALT_SVC, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderMap, HeaderName, HeaderValue,
};

use super::super::substitute::is_connection_field;

/// The fields of an answer without its connection's own, and without those that lead around the proxy.
///
/// `Alt-Svc` would send clients to QUIC, which is not carried.
pub(super) fn clean(headers: &mut HeaderMap) {
    let leads_away = |name: &HeaderName| *name == ALT_SVC || is_connection_field(name);
    if !headers.keys().any(leads_away) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(http::header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| *name != CONTENT_LENGTH && *name != CONTENT_ENCODING)
        .collect();
    let old = std::mem::take(headers);
    headers.reserve(old.len());
    for (name, value) in old.iter().filter(|(name, _)| !leads_away(name) && !named.contains(name)) {
        headers.append(name.clone(), value.clone());
    }
}

/// States the length of a whole body.
pub(super) fn restate_length(headers: &mut HeaderMap, body: &Bytes) {
    let stated = headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes).unwrap_or_default();
    if stated != itoa::Buffer::new().format(body.len()).as_bytes() {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
}

/// A value was hidden in the body, or may yet be while it streams: no validator describes what leaves, and a digest of what came would let its
/// reader try guesses offline.
pub(super) fn rewritten(headers: &mut HeaderMap) {
    retain(headers, |name| !DIGESTS.contains(&name.as_str()) && *name != ETAG);
}

/// A value may yet be hidden in what follows. The entity tag of an answer without a body stays: nothing that it describes is rewritten.
pub(super) fn may_be_rewritten(fields: &mut HeaderMap) {
    retain(fields, |name| !DIGESTS.contains(&name.as_str()));
}

/// The body leaves decoded: what described its encoded bytes goes, and its entity tag says no more than that the content is the same
/// (RFC 9110 §8.8.1).
pub(in crate::proxy) fn decoded(headers: &mut HeaderMap) {
    retain(headers, |name| {
        *name != CONTENT_ENCODING && *name != CONTENT_LENGTH && !DIGESTS.contains(&name.as_str())
    });
    if let Some(tag) = headers.get_mut(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\"")) {
        let weak = [b"W/", tag.as_bytes()].concat();
        *tag = HeaderValue::from_bytes(&weak)
            .unwrap_or_else(|_error| HeaderValue::from_static("W/\"\""));
    }
}

/// Fields that hold a digest of a body's bytes (RFC 9530 and before).
const DIGESTS: [&str; 4] = ["content-md5", "digest", "content-digest", "repr-digest"];

/// Rebuilds the map, since removal would reorder what stays.
fn retain(headers: &mut HeaderMap, keep: impl Fn(&HeaderName) -> bool) {
    if headers.keys().all(&keep) {
        return;
    }
    let old = std::mem::take(headers);
    headers.reserve(old.len());
    for (name, value) in old.iter().filter(|(name, _)| keep(name)) {
        headers.append(name.clone(), value.clone());
    }
}
