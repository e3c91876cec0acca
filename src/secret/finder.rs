//! Finds sealed tokens in bytes, whole or at the end of a piece of a stream. Linear, whatever the bytes are.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::SealedToken;

/// Finds the tokens of one session, and whatever else has the sealed form.
#[derive(Debug, Default)]
pub struct TokenFinder(());

impl TokenFinder {
    /// The tokens in a text, from left to right; none overlaps another.
    #[must_use]
    pub const fn find<'t>(&'t self, text: &'t [u8]) -> TokensIn<'t> {
        TokensIn { text, from: 0 }
    }

    /// The longest token in bytes.
    #[must_use]
    pub const fn longest(&self) -> usize {
        SealedToken::LEN
    }

    /// Where the end of `text` begins that may become a token with the bytes to come; the text's length if there is no such end.
    #[must_use]
    pub fn undecided(&self, text: &[u8]) -> usize {
        let first = (text.len() + 1).saturating_sub(self.longest());
        let may_become = |&start: &usize| text.get(start..).is_some_and(begins_standard);
        (first..text.len()).find(may_become).unwrap_or(text.len())
    }
}

/// The tokens in a text; made by [`TokenFinder::find`].
#[derive(Clone, Debug)]
pub struct TokensIn<'t> {
    text: &'t [u8],
    from: usize,
}

impl Iterator for TokensIn<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let found = standard(self.text, self.from)?;
        self.from = found.end;
        Some(found)
    }
}

/// The next standard token at or after `from`: the prefix is searched for, then 32 digits are looked at.
fn standard(text: &[u8], from: usize) -> Option<Range<usize>> {
    static PREFIX: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(SealedToken::PREFIX));
    let mut from = from;
    loop {
        let start = from + PREFIX.find(text.get(from..)?)?;
        let end = start + SealedToken::LEN;
        let digits = text.get(start + SealedToken::PREFIX.len()..end)?;
        if digits.iter().copied().all(is_digit) {
            return Some(start..end);
        }
        from = start + 1;
    }
}

/// Whether these few bytes are a proper beginning of a standard token.
fn begins_standard(text: &[u8]) -> bool {
    let prefix = SealedToken::PREFIX.as_bytes();
    let (start, digits) = text.split_at(text.len().min(prefix.len()));
    text.len() < SealedToken::LEN
        && prefix.starts_with(start)
        && digits.iter().copied().all(is_digit)
}

const fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> String {
        format!("{}{}", SealedToken::PREFIX, "0123456789abcdef".repeat(2))
    }

    #[test]
    fn only_whole_tokens_are_found() {
        let token = token();
        for (text, at) in [
            (token.clone(), Some(0)),
            (format!("Bearer {token}"), Some(7)),
            (format!("osb_sealed_osb_sealed_{token}"), Some(22)),
            (format!("{token}ff"), Some(0)),
            (token.chars().take(42).collect(), None),
            (token.replace('a', "A"), None),
            ("osb_sealed_".repeat(50), None),
            (String::new(), None),
        ] {
            let found = TokenFinder::default().find(text.as_bytes()).next();
            assert_eq!(found, at.map(|at| at..at + SealedToken::LEN), "{text}");
        }
    }

    #[test]
    fn only_the_beginning_of_a_token_is_undecided() {
        let token = token();
        let begun = |length: usize| token.chars().take(length).collect::<String>();
        for (text, at) in [
            (format!("abc{}", begun(42)), 3),
            (format!("osb_sealed_{}", begun(20)), 11),
            ("abco".to_owned(), 3),
            ("abc osb_seal ".to_owned(), 13),
            (token.clone(), 43),
            (String::new(), 0),
        ] {
            assert_eq!(TokenFinder::default().undecided(text.as_bytes()), at, "{text}");
        }
    }
}
