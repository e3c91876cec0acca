//! Shapes of placeholders: what a sealed token looks like where clients check the form of a credential before they send it.

use std::fmt;
use std::str::FromStr;

/// A shape such as `ghp_{sealed:36}` or `AKIA{sealed:16:A-Z2-7}`: literal text around parts that are derived for each sandbox and secret.
///
/// ```
/// use tollgate::secret::{Placeholder, PlaceholderError};
/// assert!("sk-ant-{sealed:48}".parse::<Placeholder>().is_ok());
/// assert_eq!("ghp_{sealed:10}".parse::<Placeholder>(), Err(PlaceholderError::Guessable { bits: 59 }));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Placeholder {
    written: String,
    parts: Vec<Part>,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Part {
    Literal(String),
    Sealed { length: usize, alphabet: Vec<u8> },
}

/// The fewest bits that a sandbox would have to guess.
const LEAST_BITS: u32 = 64;
/// The longest placeholder, in bytes.
const MOST: usize = 512;
/// The alphabet of a part that names none.
const USUAL: &str = "A-Za-z0-9";

impl Placeholder {
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }
}

impl FromStr for Placeholder {
    type Err = PlaceholderError;

    fn from_str(written: &str) -> Result<Self, PlaceholderError> {
        let mut parts = Vec::new();
        let mut rest = written;
        while let Some((literal, after)) = rest.split_once('{') {
            push_literal(literal, &mut parts)?;
            let (sealed, after) = after.split_once('}').ok_or(PlaceholderError::Braces)?;
            parts.push(sealed_part(sealed)?);
            rest = after;
        }
        push_literal(rest, &mut parts)?;
        let length: usize = parts.iter().map(Part::len).sum();
        if length > MOST {
            return Err(PlaceholderError::TooLong);
        }
        if written.contains(super::SealedToken::PREFIX) {
            return Err(PlaceholderError::StandardForm);
        }
        let bits: f64 = parts.iter().map(Part::bits).sum();
        if bits < f64::from(LEAST_BITS) {
            let whole = (0..LEAST_BITS).rev().find(|&whole| f64::from(whole) <= bits);
            return Err(PlaceholderError::Guessable { bits: whole.unwrap_or_default() });
        }
        Ok(Self { written: written.to_owned(), parts })
    }
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Literal(text) => text.len(),
            Self::Sealed { length, .. } => *length,
        }
    }

    fn bits(&self) -> f64 {
        match self {
            Self::Literal(_) => 0.0,
            Self::Sealed { length, alphabet } => {
                let each = u32::try_from(alphabet.len()).map_or(0.0, |size| f64::from(size).log2());
                u32::try_from(*length).map_or(0.0, f64::from) * each
            }
        }
    }
}

fn push_literal(text: &str, parts: &mut Vec<Part>) -> Result<(), PlaceholderError> {
    if text.contains('}') {
        return Err(PlaceholderError::Braces);
    }
    if let Some(other) = text.chars().find(|&c| !is_unreserved(c)) {
        return Err(PlaceholderError::Character(other));
    }
    if !text.is_empty() {
        parts.push(Part::Literal(text.to_owned()));
    }
    Ok(())
}

/// `sealed:36` or `sealed:16:A-Z2-7`.
fn sealed_part(text: &str) -> Result<Part, PlaceholderError> {
    let after = text.strip_prefix("sealed:").ok_or(PlaceholderError::Braces)?;
    let (length, alphabet) = after.split_once(':').unwrap_or((after, USUAL));
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let length = length.parse().ok().filter(|&length| digits && length > 0);
    let length = length.ok_or(PlaceholderError::Length)?;
    if length > MOST {
        return Err(PlaceholderError::TooLong);
    }
    Ok(Part::Sealed { length, alphabet: alphabet_of(alphabet)? })
}

/// Characters and ranges; a `-` at either end stands for itself.
fn alphabet_of(text: &str) -> Result<Vec<u8>, PlaceholderError> {
    if let Some(other) = text.chars().find(|&c| !is_unreserved(c)) {
        return Err(PlaceholderError::Character(other));
    }
    let mut alphabet = Vec::new();
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [] => break,
            [from, b'-', to, rest @ ..] => {
                let one_kind = |kind: fn(&u8) -> bool| kind(from) && kind(to);
                let comparable = one_kind(u8::is_ascii_digit)
                    || one_kind(u8::is_ascii_uppercase)
                    || one_kind(u8::is_ascii_lowercase);
                if !comparable || from > to {
                    return Err(PlaceholderError::Alphabet);
                }
                alphabet.extend(*from..=*to);
                rest
            }
            [one, rest @ ..] => {
                alphabet.push(*one);
                rest
            }
        };
    }
    alphabet.sort_unstable();
    alphabet.dedup();
    if alphabet.len() < 2 { Err(PlaceholderError::Alphabet) } else { Ok(alphabet) }
}

/// The characters that need no escape in any place (RFC 3986 §2.3), so that a token is the same text everywhere.
const fn is_unreserved(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~')
}

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl fmt::Debug for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not the shape of a placeholder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceholderError {
    /// Braces around something else.
    #[error("braces hold `sealed:LENGTH` or `sealed:LENGTH:ALPHABET` and nothing else")]
    Braces,
    /// The length is no number from 1 on.
    #[error("the length of a sealed part is a number from 1 on")]
    Length,
    /// More than 512 bytes.
    #[error("the placeholder is longer than 512 bytes")]
    TooLong,
    /// A character that would be written differently in different places.
    #[error("`{0}` cannot stand in a placeholder: letters, digits, `-`, `.`, `_` and `~` can")]
    Character(char),
    /// A range that is none, or fewer than two characters.
    #[error("an alphabet lists at least two characters, or ranges such as `A-Z2-7`")]
    Alphabet,
    /// It holds the prefix of standard tokens.
    #[error("the placeholder holds `osb_sealed_`, which standard tokens begin with")]
    StandardForm,
    /// Too few bits.
    #[error("the placeholder has {bits} bits to guess, and needs at least 64")]
    Guessable {
        /// The whole bits that it has.
        bits: u32,
    },
}

impl PlaceholderError {
    /// What to do about it.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Guessable { .. } => {
                "make its sealed parts longer, or their alphabet larger: `{sealed:11}` of letters and digits is enough"
            }
            Self::StandardForm => "leave `placeholder` out, and the token has the standard form",
            Self::Braces | Self::Length | Self::TooLong | Self::Character(_) | Self::Alphabet => {
                "placeholder: \"ghp_{sealed:36}\" or \"AKIA{sealed:16:A-Z2-7}\""
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read() {
        for (written, length) in [
            ("ghp_{sealed:36}", 40),
            ("sk-ant-{sealed:48}", 55),
            ("AKIA{sealed:16:A-Z2-7}", 20),
            ("eyJ{sealed:20}.eyJ{sealed:40:A-Za-z0-9_-}.{sealed:43:-a-z}", 111),
            ("{sealed:16:0-9a-f}", 16),
            ("{sealed:64:01}", 64),
        ] {
            let shape: Placeholder = written.parse().unwrap();
            assert_eq!(shape.parts.iter().map(Part::len).sum::<usize>(), length, "{written}");
            assert_eq!(shape.to_string(), written);
        }
    }

    #[test]
    fn what_is_no_shape_says_why() {
        use PlaceholderError as E;
        for (written, error) in [
            ("", E::Guessable { bits: 0 }),
            ("ghp_0123456789", E::Guessable { bits: 0 }),
            ("ghp_{sealed:10}", E::Guessable { bits: 59 }),
            ("{sealed:63:01}", E::Guessable { bits: 63 }),
            ("{sealed}", E::Braces),
            ("{value}", E::Braces),
            ("{sealed:36", E::Braces),
            ("sealed:36}", E::Braces),
            ("{sealed:}", E::Length),
            ("{sealed:0}", E::Length),
            ("{sealed:+9}", E::Length),
            ("{sealed:99999999999999999999}", E::Length),
            ("{sealed:513}", E::TooLong),
            ("{sealed:300}{sealed:300}", E::TooLong),
            ("a b{sealed:36}", E::Character(' ')),
            ("a/{sealed:36}", E::Character('/')),
            ("é{sealed:36}", E::Character('é')),
            ("{sealed:36:a-z+}", E::Character('+')),
            ("{sealed:36:a}", E::Alphabet),
            ("{sealed:36:z-a}", E::Alphabet),
            ("{sealed:36:A-z}", E::Alphabet),
            ("{sealed:36:}", E::Alphabet),
            ("osb_sealed_{sealed:36}", E::StandardForm),
        ] {
            assert_eq!(written.parse::<Placeholder>(), Err(error), "{written}");
        }
    }
}
