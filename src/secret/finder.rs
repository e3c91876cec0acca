//! Finds sealed tokens in bytes, whole or at the end of a piece of a stream. Linear, whatever the bytes are.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use memchr::memmem::Finder;

use super::SealedToken;

/// Finds the tokens of one session, and whatever else has the standard form.
#[derive(Debug, Default)]
pub struct TokenFinder {
    /// Over the placeholders with a shape of their own.
    shaped: Option<AhoCorasick>,
    /// The same, sorted, for those of which only the beginning is known.
    sorted: Vec<SealedToken>,
    /// The first bytes of the same.
    first_bytes: Vec<u8>,
    longest: usize,
}

impl TokenFinder {
    /// Builds the automaton. Two tokens of which one holds the other cannot be told apart in a text, and so are refused.
    pub fn new(tokens: &[SealedToken]) -> Result<Self, SealClash> {
        let mut sorted: Vec<_> =
            tokens.iter().filter(|token| !token.is_standard()).cloned().collect();
        if sorted.is_empty() {
            return Ok(Self::default());
        }
        let build = |kind| {
            let texts = sorted.iter().map(SealedToken::as_str);
            AhoCorasick::builder().match_kind(kind).build(texts).map_err(|_error| SealClash)
        };
        let all = build(MatchKind::Standard)?;
        for token in tokens {
            let within = all.find_overlapping_iter(token.as_str()).count();
            if within > usize::from(!token.is_standard()) {
                return Err(SealClash);
            }
        }
        let shaped = Some(build(MatchKind::LeftmostLongest)?);
        let longest = sorted.iter().map(|token| token.as_str().len()).max().unwrap_or_default();
        sorted.sort_unstable();
        let first = |token: &SealedToken| token.as_str().as_bytes().first().copied();
        let mut first_bytes: Vec<u8> = sorted.iter().filter_map(first).collect();
        first_bytes.dedup();
        Ok(Self { shaped, sorted, first_bytes, longest })
    }

    /// The tokens in a text, from left to right; none overlaps another, and of those that begin together the longest counts.
    #[must_use]
    pub const fn find<'t>(&'t self, text: &'t [u8]) -> TokensIn<'t> {
        TokensIn { finder: self, text, from: 0, standard: Next::Unknown, shaped: Next::Unknown }
    }

    /// Whether a token may begin with this byte.
    #[must_use]
    pub fn may_begin(&self, byte: u8) -> bool {
        SealedToken::PREFIX.as_bytes().first() == Some(&byte) || self.first_bytes.contains(&byte)
    }

    /// The longest token in bytes.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.longest.max(SealedToken::LEN)
    }

    /// Where the end of `text` begins that may become a token with the bytes to come; the text's length if there is no such end.
    #[must_use]
    pub fn undecided(&self, text: &[u8]) -> usize {
        let first = (text.len() + 1).saturating_sub(self.longest());
        let may_become = |&start: &usize| {
            let end = text.get(start..).unwrap_or_default();
            begins_standard(end) || self.begins_shaped(end)
        };
        (first..text.len()).find(may_become).unwrap_or(text.len())
    }

    /// Whether these few bytes are a proper beginning of a placeholder: then the first one behind them in order begins with them.
    fn begins_shaped(&self, text: &[u8]) -> bool {
        let behind = self.sorted.partition_point(|token| token.as_str().as_bytes() <= text);
        self.sorted.get(behind).is_some_and(|token| token.as_str().as_bytes().starts_with(text))
    }
}

/// Two tokens of one sandbox that cannot be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("two placeholders cannot be told apart, since one holds the other; give them other shapes")]
pub struct SealClash;

/// The tokens in a text; made by [`TokenFinder::find`].
#[derive(Clone, Debug)]
pub struct TokensIn<'t> {
    finder: &'t TokenFinder,
    text: &'t [u8],
    from: usize,
    standard: Next,
    shaped: Next,
}

/// The next match of one search: looked for once, so that all matches together cost one walk over the text.
#[derive(Clone, Debug)]
enum Next {
    Unknown,
    Found(Range<usize>),
    None,
}

impl Next {
    fn at_or_after(
        &mut self,
        from: usize,
        search: impl FnOnce() -> Option<Range<usize>>,
    ) -> Option<Range<usize>> {
        let passed = match self {
            Self::Unknown => true,
            Self::Found(found) => found.start < from,
            Self::None => false,
        };
        if passed {
            *self = search().map_or(Self::None, Self::Found);
        }
        match self {
            Self::Found(found) => Some(found.clone()),
            Self::Unknown | Self::None => None,
        }
    }
}

impl Iterator for TokensIn<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let Self { finder, text, from, .. } = *self;
        let standard = self.standard.at_or_after(from, || standard(text, from));
        let shaped = finder.shaped.as_ref().and_then(|automaton| {
            let search = || Some(automaton.find(Input::new(text).range(from..))?.range());
            self.shaped.at_or_after(from, search)
        });
        let leftmost_longest = |found: &Range<usize>| (found.start, Reverse(found.end));
        let found = standard.into_iter().chain(shaped).min_by_key(leftmost_longest)?;
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
    use proptest::prelude::*;

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

    fn shaped(texts: &[&str]) -> Result<TokenFinder, SealClash> {
        let tokens: Vec<_> = texts.iter().map(|text| SealedToken::of_text(text)).collect();
        TokenFinder::new(&tokens)
    }

    #[test]
    fn placeholders_are_found_beside_standard_tokens_leftmost_first() {
        let standard = token();
        let finder = shaped(&["ghp_abcabc", "cghx", &standard]).unwrap();
        assert_eq!(finder.longest(), SealedToken::LEN);
        let text = format!("ghp_abcabc {standard}ghp_abcabcghx cghx ghp_abcab");
        let found: Vec<_> =
            finder.find(text.as_bytes()).map(|found| text.get(found).unwrap()).collect();
        assert_eq!(found, ["ghp_abcabc", &standard, "ghp_abcabc", "cghx"]);
        let end = text.get(finder.undecided(text.as_bytes())..);
        assert_eq!(end, Some("ghp_abcab"));
        for (text, at) in [("ghp_abcabc", 9), ("xghp_", 1), ("gh p", 4), ("osb_cg", 4), ("gxg", 2)]
        {
            assert_eq!(finder.undecided(text.as_bytes()), at, "{text}");
        }
    }

    #[test]
    fn tokens_that_cannot_be_told_apart_are_refused() {
        let standard = token();
        for texts in
            [["abcdef", "abcdef"].as_slice(), &["abcdef", "bcd"], &["sealed_0", standard.as_str()]]
        {
            assert_eq!(shaped(texts).unwrap_err(), SealClash, "{texts:?}");
        }
        assert!(shaped(&["uvwxyz", "xyzuvw", standard.as_str()]).is_ok());
    }

    /// Tries every token at every place: the leftmost, and of those that begin together the longest.
    fn reference(tokens: &[String], text: &str) -> Vec<Range<usize>> {
        let is_standard = |text: &str| SealedToken::of_text(text).is_standard();
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            let shaped = tokens.iter().filter(|token| rest.starts_with(*token)).map(String::len);
            let standard =
                rest.get(..SealedToken::LEN).filter(|text| is_standard(text)).map(str::len);
            match shaped.chain(standard).max() {
                Some(length) => {
                    found.push(at..at + length);
                    at += length;
                }
                None => at += 1,
            }
        }
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_tokens_in_any_text_are_found_and_any_end_of_it_that_may_become_one_is_undecided(
            tokens in prop::collection::vec("[ab]{4,7}|osb_[ab]{2,4}|[ab]{2}osb_|f{0,3}osb_se", 1..5),
            text in prop::collection::vec(
                prop_oneof!["[abf]{0,9}", "osb_", "osb_sealed_", "osb_sealed_[0-9a-f]{31,33}"], 0..8,
            ),
        ) {
            let text = text.concat();
            let texts: Vec<_> = tokens.iter().map(String::as_str).collect();
            let Ok(finder) = shaped(&texts) else { return Ok(()) };
            let expected = reference(&tokens, &text);
            let found: Vec<_> = finder.find(text.as_bytes()).collect();
            prop_assert_eq!(&found, &expected);
            for cut in 0..=text.len() {
                let undecided = finder.undecided(&text.as_bytes()[..cut]);
                let across = expected.iter().find(|found| found.start < cut && found.end > cut);
                prop_assert!(across.is_none_or(|found| undecided <= found.start), "{cut}");
            }
        }
    }
}
