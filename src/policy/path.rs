//! Paths as rules see them: decoded, without dot segments; and the globs that match them.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// A request path, percent-decoded, in which nothing can be read in two ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath {
    text: String,
}

impl NormalPath {
    /// Normalises a path (without query) for comparison with rules; the request itself is forwarded as it came.
    ///
    /// A path that upstreams might resolve differently is refused: an encoded slash, backslash or NUL, a dot segment in any spelling, an
    /// empty segment, a `;` parameter, a double-encoded percent sign, or bytes that are not UTF-8.
    pub fn parse(raw: &str) -> Result<Self, PathFault> {
        let raw = raw.split_once('?').map_or(raw, |(path, _)| path);
        let decoded = percent_decode_str(raw).decode_utf8().map_err(|_error| PathFault)?;
        let slashes = |text: &str| text.bytes().filter(|&b| b == b'/').count();
        let odd = |c: char| c.is_control() || matches!(c, '\\' | ';' | '%');
        if !raw.starts_with('/')
            || slashes(raw) != slashes(&decoded)
            || decoded.contains(odd)
            || !has_whole_escapes(raw)
        {
            return Err(PathFault);
        }
        let mut segments = decoded.split('/').skip(1).peekable();
        while let Some(segment) = segments.next() {
            let dots = segment == "." || segment == "..";
            if dots || (segment.is_empty() && segments.peek().is_some()) {
                return Err(PathFault);
            }
        }
        Ok(Self { text: decoded.into_owned() })
    }

    /// The decoded text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Whether each `%` starts a two-digit escape.
fn has_whole_escapes(raw: &str) -> bool {
    raw.split('%')
        .skip(1)
        .all(|rest| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2)
}

/// A path that cannot be normalised safely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the path can be read in more than one way (an encoded slash, a dot segment, an empty segment or a broken escape)"
)]
pub struct PathFault;

/// What does not stand in a path as it is (RFC 3986 §3.3).
const UNSENT: AsciiSet = CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'%');

/// A glob over a [`NormalPath`]: `*` is any run without a slash, `**` any run, all else stands for itself.
#[derive(Clone, PartialEq, Eq)]
pub struct PathGlob {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Segment,
    Anything,
}

impl PathGlob {
    /// Whether the glob matches the whole path. Time is bounded by pattern length times path length.
    #[must_use]
    pub fn matches(&self, path: &NormalPath) -> bool {
        let text = path.as_str().as_bytes();
        // reachable[i]: the parts so far can end before byte i.
        let mut reachable = vec![false; text.len() + 1];
        if let Some(start) = reachable.first_mut() {
            *start = true;
        }
        for part in &self.parts {
            reachable = part.advance(text, &reachable);
        }
        reachable.last().copied().unwrap_or(false)
    }

    /// A path that the glob matches, as it would be sent: this text stands where the glob has a wildcard.
    #[must_use]
    pub fn sample(&self, wildcard: &str) -> String {
        let part = |part: &Part| match part {
            Part::Literal(text) => utf8_percent_encode(text, &UNSENT).to_string(),
            Part::Segment | Part::Anything => wildcard.to_owned(),
        };
        self.parts.iter().map(part).collect()
    }
}

impl Part {
    fn advance(&self, text: &[u8], from: &[bool]) -> Vec<bool> {
        let mut to = vec![false; from.len()];
        match self {
            Self::Literal(literal) => {
                let starts = from.iter().enumerate().filter(|(_, reached)| **reached);
                for end in starts
                    .filter(|(at, _)| {
                        text.get(*at..).is_some_and(|t| t.starts_with(literal.as_bytes()))
                    })
                    .map(|(at, _)| at + literal.len())
                {
                    if let Some(slot) = to.get_mut(end) {
                        *slot = true;
                    }
                }
            }
            Self::Segment | Self::Anything => {
                let mut open = false;
                for (at, slot) in to.iter_mut().enumerate() {
                    let crossed_slash =
                        at > 0 && text.get(at - 1) == Some(&b'/') && *self == Self::Segment;
                    open = (open && !crossed_slash) || from.get(at).copied().unwrap_or(false);
                    *slot = open;
                }
            }
        }
        to
    }
}

impl FromStr for PathGlob {
    type Err = PathGlobError;

    fn from_str(text: &str) -> Result<Self, PathGlobError> {
        if !text.starts_with('/') {
            return Err(PathGlobError::NotAbsolute);
        }
        let plain = text.replace('*', "x");
        let Ok(normal) = NormalPath::parse(&plain) else { return Err(PathGlobError::NotNormal) };
        if normal.as_str() != plain || text.contains("***") || text.contains('?') {
            return Err(PathGlobError::NotNormal);
        }
        Ok(Self { text: text.to_owned(), parts: parts(text) })
    }
}

fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    for (nth, between) in text.split("**").enumerate() {
        if nth > 0 {
            parts.push(Part::Anything);
        }
        for (nth, literal) in between.split('*').enumerate() {
            if nth > 0 {
                parts.push(Part::Segment);
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
        }
    }
    parts
}

impl fmt::Display for PathGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for PathGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is not a path glob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathGlobError {
    /// No leading slash.
    #[error("a path glob starts with `/`")]
    NotAbsolute,
    /// Escapes, dot segments, a query or three stars.
    #[error("a path glob is written decoded, without dot segments, query, `;` or `***`")]
    NotNormal,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_decoded_paths() {
        for (glob, path, expected) in [
            ("/simple/**", "/simple/", true),
            ("/simple/**", "/simple/a/b", true),
            ("/simple/**", "/simple", false),
            ("/v1/*/x", "/v1/a/x", true),
            ("/v1/*/x", "/v1/a/b/x", false),
            ("/**/info", "/a/b/info", true),
            ("/a", "/%61", true),
            ("/a*", "/ab", true),
            ("/a*", "/a/b", false),
            ("/**", "/", true),
            ("/*", "/", true),
            ("/a/**/z", "/a/z", false),
            ("/é", "/%C3%A9", true),
        ] {
            let glob: PathGlob = glob.parse().unwrap();
            assert_eq!(glob.matches(&NormalPath::parse(path).unwrap()), expected, "{glob} {path}");
        }
    }

    #[test]
    fn a_path_that_can_be_read_in_two_ways_is_no_path() {
        for path in [
            "",
            "a",
            "/a/../b",
            "/a/%2e%2e/b",
            "/a%2fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/./a",
            "//a",
            "/a//b",
            "/a;x=1/b",
            "/%252e",
            "/%2",
            "/%zz",
            "/%ff",
            "/..",
            "/a%0ab",
        ] {
            assert!(NormalPath::parse(path).is_err(), "{path:?} was accepted");
        }
        assert!(NormalPath::parse("/a/?x=/../").is_ok());
    }
}
