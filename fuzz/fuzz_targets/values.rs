//! The values that answers are searched for, and what servers make of them: written here anew, so that nothing is proved by itself.

#![allow(dead_code, reason = "no target uses all of it")]

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use memchr::memmem::Finder;
use tollgate::secret::{Needles, SealKey, SealedToken, SecretValue};

/// Made-up values: such that share their beginning, that overlap themselves, and that need escapes everywhere.
const PLAIN: [&str; 4] =
    ["sk-live-0123456789abcdefq", "sk-live-01234", "abababababababab", "ababababababc"];
const ODD: [&str; 3] = ["p\"w/\\<é&'+z%41=q", "two words\nand a line", "sk-live-0123456789abcdefq"];

/// What is searched for, and in which forms it may come.
pub struct Searched {
    pub needles: Arc<Needles>,
    pub tokens: Vec<SealedToken>,
    /// What must be found.
    forms: Vec<Finder<'static>>,
    /// The same in longer texts of the same encoding.
    pub snippets: Vec<Vec<u8>>,
}

impl Searched {
    pub fn plain() -> Self {
        Self::new(&PLAIN)
    }

    /// With spaces and control bytes in the values.
    pub fn odd() -> Self {
        Self::new(&ODD)
    }

    fn new(values: &[&str]) -> Self {
        let key = SealKey::new(&[1; 32]);
        let sealed: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(nth, value)| {
                let name = format!("K{nth}").parse().unwrap();
                let value = SecretValue::new(value.as_bytes().to_vec()).unwrap();
                (key.seal(&"sb".parse().unwrap(), 0, &name), Arc::new(value))
            })
            .collect();
        let forms: Vec<_> = values.iter().flat_map(|value| forms(value)).collect();
        let mut snippets = forms.clone();
        snippets.extend(sealed.iter().map(|(token, _)| token.as_str().as_bytes().to_vec()));
        for value in values {
            snippets.push(STANDARD.encode(format!("x{value}yz")).into_bytes());
            snippets.push(URL_SAFE_NO_PAD.encode(format!("xy{value}z")).into_bytes());
        }
        let tokens = sealed.iter().map(|(token, _)| token.clone()).collect();
        let forms = forms.iter().map(|form| Finder::new(form).into_owned()).collect();
        Self { needles: Arc::new(Needles::new(&sealed)), tokens, forms, snippets }
    }

    /// No value is left between the tokens and the masks, in any form. Where a token ends, a value may seem to begin that never came.
    pub fn assert_none_in(&self, clean: &[u8]) {
        let mut rest = clean;
        while !rest.is_empty() {
            let found = self.tokens.iter().filter_map(|token| {
                let at = memchr::memmem::find(rest, token.as_str().as_bytes())?;
                Some((at, token.as_str().len()))
            });
            let (end, skipped) = found.min().unwrap_or((rest.len(), 0));
            self.assert_free(&rest[..end]);
            rest = &rest[end + skipped..];
        }
    }

    fn assert_free(&self, text: &[u8]) {
        assert!(!self.needles.is_in(text), "{}", text.escape_ascii());
        for form in &self.forms {
            let needle = form.needle().escape_ascii();
            assert!(form.find(text).is_none(), "{needle} in {}", text.escape_ascii());
        }
    }
}

/// A value as servers echo it.
fn forms(value: &str) -> Vec<Vec<u8>> {
    let every = |escape: fn(u8) -> String| value.bytes().map(escape).collect::<String>();
    let escaped: String = value
        .bytes()
        .map(|byte| match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect();
    let json = serde_json::to_string(value).unwrap();
    let units: String = value.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    let mut forms = vec![
        value.to_owned(),
        json[1..json.len() - 1].to_owned(),
        units,
        escaped,
        every(|byte| format!("%{byte:02x}")),
        every(|byte| format!("{byte:02x}")),
        every(|byte| format!("{byte:02X}")),
    ];
    // The digits of base64 that depend on the value alone, wherever it begins.
    for before in 0..3 {
        let padded = [vec![0; before], value.as_bytes().to_vec()].concat();
        let digits = URL_SAFE_NO_PAD.encode(&padded);
        forms.push(digits[(before * 8).div_ceil(6)..padded.len() * 8 / 6].to_owned());
    }
    forms.into_iter().map(String::into_bytes).collect()
}
