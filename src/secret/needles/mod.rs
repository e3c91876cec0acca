//! What answers are searched for: every real value in the forms in which a server may send it back.

mod forms;
mod skim;

use std::borrow::Cow;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, Input, Match, MatchKind};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::{SealedToken, SecretValue};
use forms::forms;
use skim::{Skim, Skimmed};

/// All values of a sandbox in all their forms, and what takes the place of each.
pub struct Needles {
    /// Finds out where a needle is at all.
    skim: Skim,
    /// Decides there which of the needles that overlap is meant: the leftmost, and the longest of those.
    automaton: Option<AhoCorasick>,
    /// The values that can be part of a field's or a host's name, in lower case as names are compared.
    names: Skim,
    /// The same values, each with its token.
    named: Vec<(Zeroizing<Vec<u8>>, SealedToken)>,
    /// By pattern.
    whose: Vec<Whose>,
    longest: usize,
    /// Whether any needle holds a space or a control byte, so that no byte ends a run safely.
    spaced: bool,
}

/// What a pattern is a form of.
struct Whose {
    /// The token of the value.
    token: SealedToken,
    /// Whether the token may stand in its place; in other encodings it would not decode.
    plain: bool,
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

/// The skim reads every needle that a value gives.
const _: () = assert!(SecretValue::SEARCHED_FROM >= skim::SHORTEST);

impl Needles {
    /// Builds the tables; milliseconds, so not once per request. Values under [`SecretValue::SEARCHED_FROM`] bytes are left out.
    #[must_use]
    pub fn new(values: &[(SealedToken, Arc<SecretValue>)]) -> Self {
        let mut patterns: Vec<Zeroizing<Vec<u8>>> = Vec::new();
        let mut whose = Vec::new();
        let (mut names, mut named) = (Vec::new(), Vec::new());
        for (token, value) in
            values.iter().filter(|(_, value)| value.len() >= SecretValue::SEARCHED_FROM)
        {
            if value.expose().iter().all(|&b| is_name_byte(b)) {
                let name = Zeroizing::new(value.expose().to_ascii_lowercase());
                named.push((name.clone(), token.clone()));
                names.push(name);
            }
            let first = patterns.len();
            for (pattern, plain) in forms(value.expose()) {
                if !patterns.iter().skip(first).any(|known| *known == pattern) {
                    patterns.push(pattern);
                    whose.push(Whose { token: token.clone(), plain });
                }
            }
        }
        let longest = patterns.iter().map(|pattern| pattern.len()).max().unwrap_or(0);
        let spaced = patterns.iter().any(|pattern| pattern.iter().any(|&b| b <= b' '));
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .prefilter(false)
            .build(patterns.iter().map(|pattern| pattern.as_slice()));
        let automaton = match automaton {
            Ok(automaton) if longest > 0 => Some(automaton),
            _ => None,
        };
        let (skim, names) = (Skim::new(patterns), Skim::new(names));
        Self { skim, automaton, names, named, whose, longest, spaced }
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
        while let Some(found) = self.find(text, copied).filter(|found| found.start() < settled) {
            out.extend_from_slice(text.get(copied..found.start()).unwrap_or_default());
            match self.whose.get(found.pattern().as_usize()) {
                Some(Whose { token, plain: true }) if hide == Hide::Replace => {
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
        match self.skim.next(text, 0) {
            Skimmed::Clear => false,
            Skimmed::Met(_) => true,
            Skimmed::Tired(at) => self.find_around(text, 0, at).is_some(),
        }
    }

    /// The tokens of the values that a whole text holds, in the order in which they stand there.
    pub fn tokens_of<'n>(&'n self, text: &'n [u8]) -> impl Iterator<Item = &'n SealedToken> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let found = self.find(text, from)?;
            from = found.end();
            self.whose.get(found.pattern().as_usize()).map(|whose| &whose.token)
        })
    }

    /// The same for the name of a host or a field, which travels in lower case whatever the value was.
    pub fn tokens_of_name<'n>(&'n self, name: &'n str) -> impl Iterator<Item = &'n SealedToken> {
        let lowered = self.named.iter().filter(move |(value, _)| {
            self.is_name_in(name.as_bytes())
                && memchr::memmem::find(name.as_bytes(), value).is_some()
        });
        self.tokens_of(name.as_bytes()).chain(lowered.map(|(_, token)| token))
    }

    /// A sentence with the names of hosts and fields in it, for eyes that must not see a value: each becomes its token, in any letter case.
    #[must_use]
    pub fn redacted<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut clean = Cow::Borrowed(text);
        if text.len() < SecretValue::SEARCHED_FROM {
            return clean;
        }
        if self.is_in(text.as_bytes()) {
            let mut hidden = Vec::with_capacity(text.len());
            self.hide(text.as_bytes(), text.len(), Hide::Replace, &mut hidden);
            clean = Cow::Owned(String::from_utf8_lossy(&hidden).into_owned());
        }
        let holds_name = if clean.bytes().any(|byte| byte.is_ascii_uppercase()) {
            let lower = Zeroizing::new(clean.to_ascii_lowercase());
            self.is_name_in(lower.as_bytes())
        } else {
            self.is_name_in(clean.as_bytes())
        };
        if holds_name { Cow::Owned(self.without_names(&clean)) } else { clean }
    }

    /// Replaces the lowered values one after the other; tokens hold none of them.
    fn without_names(&self, text: &str) -> String {
        let mut clean = text.to_owned();
        for (value, token) in &self.named {
            let lower = Zeroizing::new(clean.to_ascii_lowercase());
            let mut out = String::with_capacity(clean.len());
            let mut copied = 0;
            for at in memchr::memmem::find_iter(lower.as_bytes(), value) {
                out.push_str(clean.get(copied..at).unwrap_or_default());
                out.push_str(token.as_str());
                copied = at + value.len();
            }
            out.push_str(clean.get(copied..).unwrap_or_default());
            clean = out;
        }
        clean
    }

    /// Hides values in header fields, and drops fields that are named by one; returns how many.
    pub fn scrub_headers(&self, headers: &mut HeaderMap) -> u64 {
        let mut hits = self.drop_named_by_value(headers);
        for field in headers.values_mut().filter(|field| self.is_in(field.as_bytes())) {
            let mut clean = Vec::with_capacity(field.len());
            let (_, found) = self.hide(field.as_bytes(), field.len(), Hide::Replace, &mut clean);
            hits += found;
            *field = HeaderValue::from_bytes(&clean)
                .unwrap_or_else(|_error| HeaderValue::from_static(""));
        }
        hits
    }

    /// A name with a token in place of the value would be no name that anybody looks for.
    fn drop_named_by_value(&self, headers: &mut HeaderMap) -> u64 {
        let is_value = |name: &HeaderName| self.is_name_in(name.as_str().as_bytes());
        if !headers.keys().any(is_value) {
            return 0;
        }
        let old = std::mem::take(headers);
        let mut hits = 0;
        for (name, value) in &old {
            if is_value(name) {
                hits += 1;
            } else {
                headers.append(name.clone(), value.clone());
            }
        }
        hits
    }

    /// Whether a text in lower case holds a value that can be part of a name.
    fn is_name_in(&self, text: &[u8]) -> bool {
        match self.names.next(text, 0) {
            Skimmed::Clear => false,
            Skimmed::Met(_) => true,
            Skimmed::Tired(_) => {
                self.named.iter().any(|(value, _)| memchr::memmem::find(text, value).is_some())
            }
        }
    }

    /// The leftmost needle at or after `from`, and of those that begin there the longest.
    fn find(&self, text: &[u8], from: usize) -> Option<Match> {
        match self.skim.next(text, from) {
            Skimmed::Clear => None,
            Skimmed::Met(at) | Skimmed::Tired(at) => self.find_around(text, from, at),
        }
    }

    /// The same, where the skim met no needle in front of `at`.
    ///
    /// A needle that begins before the one that the skim met still reaches beyond it, so no look back is longer than the longest needle, and
    /// all the automaton's looks together are no longer than the text.
    fn find_around(&self, text: &[u8], from: usize, at: usize) -> Option<Match> {
        let start = from.max((at + 1).saturating_sub(self.longest));
        self.automaton.as_ref()?.find(Input::new(text).span(start..text.len()))
    }
}

impl std::fmt::Debug for Needles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Needles").field("patterns", &self.whose.len()).finish_non_exhaustive()
    }
}

/// RFC 9110 §5.6.2: what a field's name is made of.
const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests;
