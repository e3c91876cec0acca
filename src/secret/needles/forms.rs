//! The forms in which a server may send a value back.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use zeroize::Zeroizing;

/// A value in its forms, each with whether a token may stand in its place and still be read by what reads that form.
pub(super) fn forms(value: &[u8]) -> Vec<(Zeroizing<Vec<u8>>, bool)> {
    let mut forms = vec![(value.to_vec(), true)];
    for set in [URL, FORM, NON_ALPHANUMERIC] {
        let upper = percent_encode(value, set).to_string();
        forms.push((lower_escapes(&upper).into_bytes(), true));
        forms.push((upper.into_bytes(), true));
    }
    forms.push((form_encoded(value), true));
    // Some encoders escape every byte.
    let every: String =
        value.iter().map(|byte| percent_encoding::percent_encode_byte(*byte)).collect();
    forms.push((lower_escapes(&every).into_bytes(), true));
    forms.push((every.into_bytes(), true));
    if let Ok(text) = std::str::from_utf8(value) {
        forms.extend(json_escaped(text).into_iter().map(|form| (form.into_bytes(), true)));
        forms.push((html_escaped(text, "&#39;", "&#34;").into_bytes(), true));
        forms.push((html_escaped(text, "&#x27;", "&quot;").into_bytes(), true));
    }
    forms
        .extend((0..3).flat_map(|alignment| base64_at(value, alignment)).map(|form| (form, false)));
    let hex = value
        .iter()
        .fold(String::with_capacity(value.len() * 2), |text, byte| text + &format!("{byte:02x}"));
    forms.push((hex.to_ascii_uppercase().into_bytes(), false));
    forms.push((hex.into_bytes(), false));
    forms
        .into_iter()
        .filter(|(form, _)| !form.is_empty())
        .map(|(form, plain)| (Zeroizing::new(form), plain))
        .collect()
}

/// What a URL's path or query leaves as it is (RFC 3986 unreserved).
const URL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What many encoders also leave as it is: the sub-delimiters, `/`, `:`, `@`.
const FORM: &AsciiSet = &URL
    .remove(b'/')
    .remove(b':')
    .remove(b'@')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=');

fn form_encoded(value: &[u8]) -> Vec<u8> {
    percent_encode(value, URL).to_string().replace("%20", "+").into_bytes()
}

fn lower_escapes(text: &str) -> String {
    let mut digits = 0_u8;
    text.chars()
        .map(|c| {
            let lowered = if digits > 0 { c.to_ascii_lowercase() } else { c };
            digits = if c == '%' { 2 } else { digits.saturating_sub(1) };
            lowered
        })
        .collect()
}

/// The text inside a JSON string as the common encoders write it: as little as they must, the slash too, what HTML could take for markup
/// (in either case of the digits), all but ASCII, everything.
fn json_escaped(text: &str) -> Vec<String> {
    let least = serde_json::to_string(text).unwrap_or_default();
    let least = least.strip_prefix('"').and_then(|json| json.strip_suffix('"')).unwrap_or_default();
    let escaped = |of: fn(char) -> bool, upper: bool| -> String {
        least
            .chars()
            .map(|c| if of(c) { unicode_escape(c, upper) } else { c.to_string() })
            .collect()
    };
    let markup = |c: char| matches!(c, '<' | '>' | '&' | '\'' | '+' | '`') || !c.is_ascii();
    let mut forms = vec![least.to_owned(), least.replace('/', "\\/")];
    for upper in [false, true] {
        forms.push(escaped(|c| matches!(c, '<' | '>' | '&'), upper));
        forms.push(escaped(|c| !c.is_ascii(), upper));
        forms.push(escaped(markup, upper).replace("\\\"", &unicode_escape('"', upper)));
        forms.push(text.chars().map(|c| unicode_escape(c, upper)).collect());
    }
    forms
}

/// `\uXXXX`, by surrogate pairs where one does not do (RFC 8259 §7).
fn unicode_escape(c: char, upper: bool) -> String {
    let unit = |unit: &u16| if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") };
    c.encode_utf16(&mut [0; 2]).iter().map(unit).collect()
}

fn html_escaped(text: &str, apostrophe: &str, quote: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', quote)
        .replace('\'', apostrophe)
}

/// The base64 of a value that starts `alignment` bytes into a quantum: the digits that depend on the value alone.
fn base64_at(value: &[u8], alignment: usize) -> Vec<Vec<u8>> {
    let mut padded = Zeroizing::new(vec![0; alignment]);
    padded.extend_from_slice(value);
    let skipped = [0, 2, 3].get(alignment).copied().unwrap_or(0);
    let digits = padded.len() * 8 / 6;
    let mut forms: Vec<Vec<u8>> =
        [STANDARD_NO_PAD.encode(&*padded), URL_SAFE_NO_PAD.encode(&*padded)]
            .iter()
            .map(|text| text.as_bytes().get(skipped..digits).unwrap_or_default().to_vec())
            .collect();
    if alignment == 0 {
        forms.extend([STANDARD.encode(value).into_bytes(), URL_SAFE.encode(value).into_bytes()]);
    }
    forms
}
