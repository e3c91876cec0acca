//! The input language of the hostile cases: backslash escapes and `{{…}}`.
//!
//! `\r \n \t \0 \xNN \\ \"`; `{{TOK_A}}` `{{S_A}}` token and value of `KEY_A`; `{{TOK_A[0:7]}}`; `{{repeat:x:n}}`; `{{len}}` the length of what
//! follows the first empty line; `{{b64:x}} {{b64url-nopad:x}} {{hex:x}} {{pct:x}} {{json:x}} {{upper:x}}
//! {{fullwidth:x}}`.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// Expands; `lookup` knows names such as `TOK_A` and `S_A`.
pub(crate) fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Vec<u8> {
    let expanded = run(text, lookup);
    let Some(at) = memchr::memmem::find(&expanded, LEN) else { return expanded };
    let body =
        memchr::memmem::find(&expanded, b"\r\n\r\n").map_or(0, |end| expanded.len() - end - 4);
    [&expanded[..at], body.to_string().as_bytes(), &expanded[at + LEN.len()..]].concat()
}

const LEN: &[u8] = b"\x00{{len}}\x00";

fn run(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some(inner) = rest.strip_prefix("{{") {
            let end = closing(inner);
            out.extend(expansion(&inner[..end], lookup));
            rest = &inner[end + 2..];
        } else if let Some(escape) = rest.strip_prefix('\\') {
            let (byte, taken) = unescape(escape);
            out.push(byte);
            rest = &escape[taken..];
        } else {
            out.extend_from_slice(&rest.as_bytes()[..first.len_utf8()]);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// Where the `}}` is that belongs to the `{{` before.
fn closing(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("{{") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("}}") {
            if depth == 0 {
                return at;
            }
            depth -= 1;
            at += 2;
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    panic!("an expansion without its end: {text}");
}

fn unescape(escape: &str) -> (u8, usize) {
    match escape.as_bytes()[0] {
        b'r' => (b'\r', 1),
        b'n' => (b'\n', 1),
        b't' => (b'\t', 1),
        b'0' => (0, 1),
        b'x' => (u8::from_str_radix(&escape[1..3], 16).unwrap(), 3),
        other => (other, 1),
    }
}

fn expansion(inner: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Vec<u8> {
    if inner == "len" {
        return LEN.to_vec();
    }
    if let Some(arguments) = inner.strip_prefix("repeat:") {
        let (what, times) = arguments.rsplit_once(':').unwrap();
        return run(what, lookup).repeat(times.parse().unwrap());
    }
    if let Some((name, range)) = inner.strip_suffix(']').and_then(|inner| inner.split_once('[')) {
        let (from, to) = range.split_once(':').unwrap();
        let text = expansion(name, lookup);
        return text[from.parse().unwrap_or(0)..to.parse().unwrap_or(text.len())].to_vec();
    }
    if let Some((coding, what)) = inner.split_once(':') {
        // A bare name is looked up; other text stands for itself.
        let bytes = lookup(what).map_or_else(|| run(what, lookup), String::into_bytes);
        return encode(coding, &bytes);
    }
    lookup(inner).unwrap_or_else(|| panic!("unknown expansion {inner}")).into_bytes()
}

fn encode(coding: &str, bytes: &[u8]) -> Vec<u8> {
    let each = |form: fn(&u8) -> String| bytes.iter().map(form).collect::<String>();
    match coding {
        "b64" => STANDARD.encode(bytes),
        "b64url-nopad" => URL_SAFE_NO_PAD.encode(bytes),
        "hex" => each(|byte| format!("{byte:02x}")),
        "pct" => each(|byte| format!("%{byte:02X}")),
        "json" => each(|byte| format!("\\u{byte:04x}")),
        "upper" => String::from_utf8_lossy(bytes).to_ascii_uppercase(),
        "fullwidth" => {
            let wide = |byte: &u8| char::from_u32(u32::from(*byte) - 0x21 + 0xff01).unwrap();
            bytes.iter().map(wide).collect()
        }
        other => panic!("unknown coding {other}"),
    }
    .into_bytes()
}
