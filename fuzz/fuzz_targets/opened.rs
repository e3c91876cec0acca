//! Texts with opened tokens, made without any cleverness: every unit of the text is looked at in turn.

#![allow(dead_code, reason = "no target uses all of it")]

/// How a place escapes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escapes {
    None,
    Percent,
    Json,
}

/// A token and the value that is written for it; none if the token goes on.
pub struct Secret {
    pub token: Vec<u8>,
    pub value: Option<String>,
}

/// The text with its tokens opened, and how many were.
pub fn opened(text: &[u8], escapes: Escapes, secrets: &[Secret]) -> (Vec<u8>, usize) {
    let units = units(text, escapes);
    let mut out = Vec::new();
    let (mut at, mut count) = (0, 0);
    while at < units.len() {
        let found = secrets.iter().find(|secret| {
            let here = units.get(at..at + secret.token.len());
            here.is_some_and(|here| {
                here.iter().map(|unit| unit.1).eq(secret.token.iter().map(|byte| Some(*byte)))
            })
        });
        match found {
            Some(Secret { token, value: Some(value) }) => {
                out.extend_from_slice(written(value, escapes).as_bytes());
                at += token.len();
                count += 1;
            }
            _ => {
                out.extend_from_slice(units[at].0);
                at += 1;
            }
        }
    }
    (out, count)
}

/// The same for a multipart body: each line is text with the escapes of its part, since no token stands in two.
pub fn opened_parts(body: &[u8], delimiter: &[u8], secrets: &[Secret]) -> (Vec<u8>, usize) {
    let (mut out, mut count) = (Vec::new(), 0);
    let mut escapes = Escapes::None;
    let mut head: Option<Vec<u8>> = None;
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        let behind = line.strip_prefix(delimiter).filter(|_| head.is_none());
        if head.is_some() || behind.is_some() {
            escapes = Escapes::None;
        }
        let (opened, found) = opened(line, escapes, secrets);
        out.extend_from_slice(&opened);
        count += found;
        if let Some(behind) = behind {
            head = behind.trim_ascii().is_empty().then(|| behind.to_vec());
        } else if let Some(lines) = &mut head {
            lines.extend_from_slice(line);
            if (line == b"\n" || line == b"\r\n") && lines.len() <= LONGEST_HEAD {
                escapes = escapes_of_part(lines);
                head = None;
            }
        }
        head = head.filter(|lines| lines.len() <= LONGEST_HEAD);
    }
    (out, count)
}

const LONGEST_HEAD: usize = 8 * 1024;

fn escapes_of_part(head: &[u8]) -> Escapes {
    let head = String::from_utf8_lossy(head)
        .to_ascii_lowercase()
        .replace("\n ", " ")
        .replace("\n\t", "\t");
    let named = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim_ascii_end() == "content-type").then_some(value)
    });
    match named.and_then(|value| value.split(';').next()).map(str::trim_ascii) {
        Some("application/x-www-form-urlencoded") => Escapes::Percent,
        Some("application/json" | "application/x-ndjson") => Escapes::Json,
        Some(other) if other.ends_with("+json") => Escapes::Json,
        _ => Escapes::None,
    }
}

pub fn written(value: &str, escapes: Escapes) -> String {
    match escapes {
        Escapes::None => value.to_owned(),
        Escapes::Json => {
            let quoted = serde_json::to_string(value).unwrap();
            quoted[1..quoted.len() - 1].to_owned()
        }
        Escapes::Percent => value
            .bytes()
            .map(|byte| match byte {
                b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b'_' | b'~' => {
                    char::from(byte).to_string()
                }
                _ => format!("%{byte:02X}"),
            })
            .collect(),
    }
}

/// Bytes as written, and the byte that is meant by them, if a token may hold it.
fn units(mut text: &[u8], escapes: Escapes) -> Vec<(&[u8], Option<u8>)> {
    let mut units = Vec::new();
    while let Some(first) = text.first() {
        let (length, byte) = match (escapes, text) {
            (Escapes::Percent, [b'%', ..]) => {
                number(text, 1, 2).map_or((1, Some(b'%')), |byte| (3, byte))
            }
            (Escapes::Json, [b'\\', b'u', ..]) => {
                number(text, 2, 4).map_or((2, None), |byte| (6, byte))
            }
            (Escapes::Json, [b'\\', _, ..]) => (2, None),
            _ => (1, Some(*first)),
        };
        let (unit, rest) = text.split_at(length);
        units.push((unit, byte));
        text = rest;
    }
    units
}

/// The byte that so many hexadecimal digits tell; the outer none if they are not there.
fn number(text: &[u8], from: usize, digits: usize) -> Option<Option<u8>> {
    let digits = str::from_utf8(text.get(from..from + digits)?).ok()?;
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let number = u32::from_str_radix(digits, 16).ok()?;
    Some(u8::try_from(number).ok().filter(u8::is_ascii_graphic))
}
