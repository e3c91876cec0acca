//! Tokens in the request target, however they are percent-encoded. Every byte beside them stays as it came.
//!
//! The decision was made on the path as sent; a value can neither add a segment nor climb out of one.

use http::Uri;
use http::uri::PathAndQuery;
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::OpenedAt;
use super::encoding::Encoding;
use super::tokens::{self, Place, Room, Tokens, value_of};
use crate::policy::Denial;
use crate::secret::SecretName;

/// Opens every token of the target; one that may not be opened where it stands ends the request.
pub(super) async fn open(tokens: &Tokens<'_>, uri: &mut Uri) -> Result<Vec<OpenedAt>, Denial> {
    let mut log = Vec::new();
    let Some(target) = uri.path_and_query() else { return Ok(log) };
    let path = opened(tokens, Place::Path, target.path(), &mut log).await?;
    if let (Some(path), Some(first)) = (&path, log.first()) {
        check_segments(target.path(), path, &first.secret)?;
    }
    let query = match target.query() {
        Some(query) => opened(tokens, Place::Query, query, &mut log).await?,
        None => None,
    };
    let Some(last) = log.last() else { return Ok(log) };
    let mut text = Zeroizing::new(String::new());
    text.push_str(match &path {
        Some(path) => path,
        None => target.path(),
    });
    if let Some(sent) = target.query() {
        text.push('?');
        text.push_str(query.as_ref().map_or(sent, |query| query.as_str()));
    }
    let unfit = || tokens::unfit(&last.secret, "a URL");
    let target = PathAndQuery::try_from(text.as_str()).map_err(|_error| unfit())?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target);
    *uri = Uri::from_parts(parts).map_err(|_error| unfit())?;
    Ok(log)
}

/// One part of the target with every token opened; `None` if it holds none. One pass: what is written is not read again.
async fn opened(
    tokens: &Tokens<'_>,
    place: Place<'_>,
    part: &str,
    log: &mut Vec<OpenedAt>,
) -> Result<Option<Zeroizing<String>>, Denial> {
    let decoded = Encoding::Percent.decode(part.as_bytes(), tokens.session.finder());
    let mut found = tokens.found(&decoded.text).peekable();
    if found.peek().is_none() {
        return Ok(None);
    }
    let mut out = Zeroizing::new(String::with_capacity(part.len() + 256));
    let mut room = Room::of_head();
    let mut copied = 0;
    for token in found {
        let (start, end) = (decoded.source(token.start), decoded.source(token.end));
        let written = decoded.text.get(token).unwrap_or_default();
        let Some(secret) = tokens.secret(written, place)? else { continue };
        let name = &secret.bound.name;
        let value = Encoding::Percent.encode(value_of(secret).await?.expose());
        let value = value.as_ref().and_then(|value| str::from_utf8(value).ok());
        let value = value.ok_or_else(|| tokens::unfit(name, "a URL"))?;
        room.take(value.len())?;
        out.push_str(part.get(copied..start).unwrap_or_default());
        out.push_str(value);
        log.push(OpenedAt { secret: name.clone(), place: place.to_string() });
        copied = end;
    }
    out.push_str(part.get(copied..).unwrap_or_default());
    Ok(Some(out))
}

/// Refuses a path in which a segment became a dot segment, also for those who decode `%2F` first or cut a segment at `;`.
fn check_segments(sent: &str, path: &str, name: &SecretName) -> Result<(), Denial> {
    let climbs = |segment: &str| {
        let decoded = Zeroizing::new(percent_decode_str(segment).collect::<Vec<u8>>());
        let mut pieces = decoded.split(|&byte| matches!(byte, b'/' | b'\\'));
        pieces.any(|piece| {
            let name = piece.split(|&byte| byte == b';').next().unwrap_or_default();
            matches!(name, b"." | b"..")
        })
    };
    let mut changed = path.split('/').zip(sent.split('/')).filter(|(now, sent)| now != sent);
    if changed.any(|(now, _)| climbs(now)) {
        return Err(tokens::misdirected(
            format!("the value of {name} would make a dot segment of the path"),
            "a value that holds `.` or `..` between slashes never stands in a path; send it in another place",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_segments_that_changed_are_looked_at() {
        let name: SecretName = "KEY".parse().unwrap();
        for (sent, path, fine) in [
            ("/a/../T/b", "/a/../v/b", true),
            ("/a/T/b", "/a/v%2Fw/b", true),
            ("/a/T/b", "/a/.../b", true),
            ("/a/T/b", "/a/../b", false),
            ("/a/.T/b", "/a/../b", false),
            ("/a/T", "/a/%2E%2e", false),
            ("/a/T/b", "/a/..%2Fadmin/b", false),
            ("/a/T/b", "/a/x%5C..%5Cy/b", false),
            ("/a/T/b", "/a/..%3Bx/b", false),
        ] {
            assert_eq!(check_segments(sent, path, &name).is_ok(), fine, "{path}");
        }
    }
}
