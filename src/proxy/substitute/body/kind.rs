//! How a body is read, by its Content-Type: where tokens and values in it have escapes, and which.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use super::super::encoding::Encoding;

/// How a body is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::proxy::substitute) enum Kind {
    /// Text with these escapes.
    Text(Encoding),
    /// Messages that hold such text; those without escapes are protobuf, where lengths stand around it.
    Grpc(Encoding),
    /// Parts behind lines with this boundary, each text with escapes of its own.
    Multipart(Arc<[u8]>),
}

impl Kind {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let written = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let essence = essence(written);
        if essence.starts_with(b"multipart/") {
            return boundary(written)
                .map_or(Self::Text(Encoding::Raw), |boundary| Self::Multipart(boundary.into()));
        }
        match essence.as_slice() {
            essence if essence.starts_with(b"application/grpc-web-text") => {
                Self::Text(Encoding::Raw)
            }
            essence if essence.starts_with(b"application/grpc") => {
                Self::Grpc(if essence.ends_with(b"+json") { Encoding::Json } else { Encoding::Raw })
            }
            _ => Self::Text(text(written)),
        }
    }

    /// Every way of writing a value that a body of this kind may need.
    pub(super) const fn encodings(&self) -> &'static [Encoding] {
        match self {
            Self::Text(encoding) | Self::Grpc(encoding) => match encoding {
                Encoding::Raw => &[Encoding::Raw],
                Encoding::Percent => &[Encoding::Percent],
                Encoding::Json => &[Encoding::Json],
            },
            Self::Multipart(_) => &[Encoding::Raw, Encoding::Percent, Encoding::Json],
        }
    }
}

/// The escapes of a text, by the Content-Type of a body or of a part of one.
pub(super) fn text(content_type: &[u8]) -> Encoding {
    match essence(content_type).as_slice() {
        b"application/x-www-form-urlencoded" => Encoding::Percent,
        b"application/json"
        | b"text/json"
        | b"application/x-ndjson"
        | b"application/ndjson"
        | b"application/jsonl"
        | b"application/x-jsonlines"
        | b"application/json-seq" => Encoding::Json,
        essence if essence.ends_with(b"+json") => Encoding::Json,
        _ => Encoding::Raw,
    }
}

/// The type without its parameters, in lower case.
fn essence(content_type: &[u8]) -> Vec<u8> {
    let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default();
    essence.trim_ascii().to_ascii_lowercase()
}

/// A boundary as RFC 2046 §5.1.1 has it is shorter.
const LONGEST_BOUNDARY: usize = 256;

/// The boundary of a multipart body: a token or a quoted string (RFC 9110 §5.6.6).
fn boundary(content_type: &[u8]) -> Option<Vec<u8>> {
    let mut rest = content_type.get(content_type.iter().position(|&byte| byte == b';')? + 1..)?;
    loop {
        let equals = rest.iter().position(|&byte| byte == b'=')?;
        let (name, behind) = (rest.get(..equals)?, rest.get(equals + 1..)?.trim_ascii_start());
        let (value, length) = parameter(behind);
        if name.trim_ascii().eq_ignore_ascii_case(b"boundary") {
            return Some(value).filter(|value| (1..=LONGEST_BOUNDARY).contains(&value.len()));
        }
        let behind = behind.get(length..)?;
        rest = behind.get(behind.iter().position(|&byte| byte == b';')? + 1..)?;
    }
}

/// The value of a parameter at the beginning of a text, and how much of the text it takes up.
fn parameter(text: &[u8]) -> (Vec<u8>, usize) {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|&byte| byte == b';').unwrap_or(text.len());
        return (text.get(..end).unwrap_or_default().trim_ascii().to_vec(), end);
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter().enumerate();
    while let Some((at, &byte)) = bytes.next() {
        match byte {
            b'"' => return (value, at + 2),
            b'\\' => value.extend(bytes.next().map(|(_, &byte)| byte)),
            _ => value.push(byte),
        }
    }
    (value, text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(content_type: &'static str) -> Kind {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Kind::of(&headers)
    }

    #[test]
    fn the_content_type_says_how_a_body_is_read() {
        for (written, expected) in [
            ("", Kind::Text(Encoding::Raw)),
            ("text/plain", Kind::Text(Encoding::Raw)),
            ("application/json", Kind::Text(Encoding::Json)),
            ("Application/JSON; charset=utf-8", Kind::Text(Encoding::Json)),
            ("application/vnd.api+json", Kind::Text(Encoding::Json)),
            ("application/x-ndjson", Kind::Text(Encoding::Json)),
            ("application/x-www-form-urlencoded;charset=UTF-8", Kind::Text(Encoding::Percent)),
            ("application/grpc", Kind::Grpc(Encoding::Raw)),
            ("application/grpc+proto", Kind::Grpc(Encoding::Raw)),
            ("application/grpc+json", Kind::Grpc(Encoding::Json)),
            ("application/grpc-web", Kind::Grpc(Encoding::Raw)),
            ("application/grpc-web-text", Kind::Text(Encoding::Raw)),
        ] {
            assert_eq!(kind(written), expected, "{written}");
        }
    }

    #[test]
    fn a_multipart_body_is_read_by_its_boundary() {
        for (written, boundary) in [
            ("multipart/form-data; boundary=x", "x"),
            (
                "Multipart/Related; type=\"application/json;a=b\"; BOUNDARY = \"a b\\\"c\" ; z",
                "a b\"c",
            ),
            ("multipart/mixed;boundary=a=b ;charset=x", "a=b"),
            ("multipart/mixed;boundary=\"open", "open"),
        ] {
            assert_eq!(kind(written), Kind::Multipart(boundary.as_bytes().into()), "{written}");
        }
        for written in [
            "multipart/form-data",
            "multipart/form-data; boundary",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"\"; boundary=x",
            "multipart/form-data; x=\"; boundary=x",
        ] {
            assert_eq!(kind(written), Kind::Text(Encoding::Raw), "{written}");
        }
    }
}
