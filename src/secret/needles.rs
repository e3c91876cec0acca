//! What answers are searched for: every real value in the forms in which a server may send it back.

use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use http::HeaderMap;
use http::header::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use zeroize::Zeroizing;

use super::{SealedToken, SecretValue};

/// One automaton over all values of a sandbox, and what takes the place of each match.
pub struct Needles {
    automaton: Option<AhoCorasick>,
    /// By pattern: the token that replaces it; none for encodings in which a token would not decode.
    tokens: Vec<Option<SealedToken>>,
    longest: usize,
    /// Whether any needle holds a space or a control byte, so that no byte ends a run safely.
    spaced: bool,
}

/// How a match is hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hide {
    /// By the sealed token, or a mask where a token would not decode.
    Replace,
    /// By a mask of equal length, so that stated lengths stay true.
    Mask,
}

/// What stands where a value stood in an encoding, or where lengths must not change.
const MASK: u8 = b'*';

impl Needles {
    /// Builds the automaton; milliseconds, so not once per request. Values under [`SecretValue::SEARCHED_FROM`] bytes are left out.
    #[must_use]
    pub fn new(values: &[(SealedToken, Arc<SecretValue>)]) -> Self {
        let mut patterns: Vec<Zeroizing<Vec<u8>>> = Vec::new();
        let mut tokens = Vec::new();
        for (token, value) in
            values.iter().filter(|(_, value)| value.len() >= SecretValue::SEARCHED_FROM)
        {
            for (pattern, plain) in forms(value.expose()) {
                if !patterns.contains(&pattern) {
                    patterns.push(pattern);
                    tokens.push(plain.then(|| token.clone()));
                }
            }
        }
        let longest = patterns.iter().map(|pattern| pattern.len()).max().unwrap_or(0);
        let spaced = patterns.iter().any(|pattern| pattern.iter().any(|&b| b <= b' '));
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(patterns.iter().map(|pattern| pattern.as_slice()));
        let automaton = match automaton {
            Ok(automaton) if longest > 0 => Some(automaton),
            _ => None,
        };
        Self { automaton, tokens, longest, spaced }
    }

    /// The longest needle in bytes; 0 if there is nothing to search for.
    #[must_use]
    pub const fn longest(&self) -> usize {
        self.longest
    }

    /// How much of the end of `text` may be the start of a needle, judged by its length and its last space or control byte alone: what is held
    /// back never tells how much of a guess is right.
    #[must_use]
    pub fn undecided(&self, text: &[u8]) -> usize {
        let most = self.longest.saturating_sub(1).min(text.len());
        if self.spaced {
            return most;
        }
        let tail = text.get(text.len() - most..).unwrap_or_default();
        tail.iter().rposition(|&b| b <= b' ').map_or(most, |at| tail.len() - at - 1)
    }

    /// Appends `text` to `out` with every match hidden, up to the first match that begins at or after `settled`; returns how much of `text`
    /// was consumed (at least `settled`, more if a match crosses it) and how many matches were hidden.
    pub fn hide(&self, text: &[u8], settled: usize, hide: Hide, out: &mut Vec<u8>) -> (usize, u64) {
        let mut copied = 0;
        let mut hits = 0;
        for found in self.automaton.iter().flat_map(|automaton| automaton.find_iter(text)) {
            if found.start() >= settled {
                break;
            }
            out.extend_from_slice(text.get(copied..found.start()).unwrap_or_default());
            match self.tokens.get(found.pattern().as_usize()) {
                Some(Some(token)) if hide == Hide::Replace => {
                    out.extend_from_slice(token.as_str().as_bytes())
                }
                _ => out.resize(out.len() + found.len(), MASK),
            }
            copied = found.end();
            hits += 1;
        }
        let end = settled.max(copied);
        out.extend_from_slice(text.get(copied..end).unwrap_or_default());
        (end, hits)
    }

    /// Whether a whole text holds any value.
    #[must_use]
    pub fn is_in(&self, text: &[u8]) -> bool {
        self.automaton.as_ref().is_some_and(|automaton| automaton.is_match(text))
    }

    /// Hides values in header fields; returns how many.
    pub fn scrub_headers(&self, headers: &mut HeaderMap) -> u64 {
        let mut hits = 0;
        for field in headers.values_mut().filter(|field| self.is_in(field.as_bytes())) {
            let mut clean = Vec::with_capacity(field.len());
            let (_, found) = self.hide(field.as_bytes(), field.len(), Hide::Replace, &mut clean);
            hits += found;
            *field = HeaderValue::from_bytes(&clean)
                .unwrap_or_else(|_error| HeaderValue::from_static(""));
        }
        hits
    }
}

impl std::fmt::Debug for Needles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Needles").field("patterns", &self.tokens.len()).finish_non_exhaustive()
    }
}

/// A value in its forms, each with whether a token may stand in its place and still be read by what reads that form.
fn forms(value: &[u8]) -> Vec<(Zeroizing<Vec<u8>>, bool)> {
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
        let json = serde_json::to_string(text).unwrap_or_default();
        let json = json.trim_start_matches('"').strip_suffix('"').unwrap_or_default().to_owned();
        forms.push((json.replace('/', "\\/").into_bytes(), true));
        forms.push((json.into_bytes(), true));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SealKey;

    fn needles(value: &str) -> (Needles, String) {
        let token = SealKey::new(&[1; 32]).seal(&"sb".parse().unwrap(), 0, &"KEY".parse().unwrap());
        let text = token.as_str().to_owned();
        (
            Needles::new(&[(
                token,
                Arc::new(SecretValue::new(value.as_bytes().to_vec()).unwrap()),
            )]),
            text,
        )
    }

    fn hidden(needles: &Needles, text: &str, hide: Hide) -> String {
        let mut out = Vec::new();
        needles.hide(text.as_bytes(), text.len(), hide, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_value_is_hidden_in_every_form() {
        let value = "s3cr3t/\"Value+with&odd<chars>='x";
        let (needles, token) = needles(value);
        assert_eq!(
            hidden(&needles, &format!("a {value} b"), Hide::Replace),
            format!("a {token} b")
        );
        assert_eq!(
            hidden(&needles, &format!("a {value} b"), Hide::Mask),
            format!("a {} b", "*".repeat(value.len()))
        );
        let mut echoes = vec![
            percent_encode(value.as_bytes(), NON_ALPHANUMERIC).to_string(),
            lower_escapes(&percent_encode(value.as_bytes(), NON_ALPHANUMERIC).to_string()),
            serde_json::to_string(value).unwrap(),
            value.bytes().map(|b| format!("{b:02X}")).collect(),
            html_escaped(value, "&#39;", "&quot;").replace("&quot;", "&#34;"),
        ];
        for before in ["", "x", "xy", "xyz"] {
            for after in ["", "x", "xy", "xyz"] {
                echoes.push(STANDARD.encode(format!("{before}{value}{after}")));
                echoes.push(URL_SAFE.encode(format!("{before}{value}{after}")));
            }
        }
        for echo in echoes {
            assert!(needles.is_in(echo.as_bytes()), "{echo}");
            assert_ne!(hidden(&needles, &echo, Hide::Replace), echo);
            assert_eq!(hidden(&needles, &echo, Hide::Mask).len(), echo.len());
        }
    }

    #[test]
    fn what_is_held_back_depends_on_length_and_spaces_only() {
        let (needles, _) = needles("abcdefghijklmnop");
        assert_eq!(needles.undecided(b"data: hello\n\n"), 0);
        assert_eq!(needles.undecided(b"x abcdefgh"), needles.undecided(b"x zzzzzzzz"));
        assert!(needles.undecided(&[b'a'; 500]) < needles.longest());
    }
}
