//! Any text: the tokens in it are those that a search of no cleverness finds, and so is what is hidden of values.
#![no_main]

mod compose;
mod values;

use std::ops::Range;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tollgate::secret::{Hide, SealKey, SealedToken, TokenFinder};

use self::values::Searched;

static SEARCHED: LazyLock<[Searched; 2]> = LazyLock::new(|| [Searched::plain(), Searched::odd()]);

static TOKENS: LazyLock<Vec<SealedToken>> = LazyLock::new(|| {
    let shapes =
        [None, None, Some("os_{sealed:20}"), Some("ghp_{sealed:12}osb"), Some("ghp_{sealed:30}")];
    let seal = |(nth, shape): (usize, &Option<&str>)| {
        let shape = shape.map(|shape| shape.parse().unwrap());
        let name = format!("T{nth}").parse().unwrap();
        SealKey::new(&[3; 32]).seal_as(shape.as_ref(), &"sb".parse().unwrap(), 0, &name)
    };
    shapes.iter().enumerate().map(seal).collect()
});

static FINDER: LazyLock<TokenFinder> = LazyLock::new(|| TokenFinder::new(&TOKENS).unwrap());

static SNIPPETS: LazyLock<[Vec<Vec<u8>>; 2]> = LazyLock::new(|| {
    [0, 1].map(|set| {
        let tokens = TOKENS.iter().map(|token| token.as_str().as_bytes().to_vec());
        tokens.chain(SEARCHED[set].snippets.iter().cloned()).collect()
    })
});

fuzz_target!(|data: &[u8]| {
    let [set, cut, data @ ..] = data else { return };
    let set = usize::from(*set % 2);
    let text = compose::text(data, &SNIPPETS[set]);
    let cut = usize::from(*cut).min(text.len());
    tokens(&text, cut);
    values(&SEARCHED[set], &text, cut);
});

fn tokens(text: &[u8], cut: usize) {
    let found: Vec<_> = FINDER.find(text).collect();
    assert_eq!(found, reference(text));
    let undecided = FINDER.undecided(&text[..cut]);
    assert!(undecided <= cut && cut - undecided < FINDER.longest());
    for token in found {
        assert!(token.start >= undecided || token.end <= cut || token.start >= cut, "{token:?}");
    }
}

/// The leftmost tokens, and the longest of those that begin together.
fn reference(text: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let here = &text[at..];
        let own = TOKENS.iter().map(|token| token.as_str().as_bytes());
        let own = own.filter(|token| here.starts_with(token)).map(<[u8]>::len);
        let standard = here.get(..SealedToken::LEN).filter(|token| {
            token.starts_with(SealedToken::PREFIX.as_bytes())
                && token[SealedToken::PREFIX.len()..]
                    .iter()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        });
        match own.chain(standard.map(<[u8]>::len)).max() {
            Some(length) => {
                found.push(at..at + length);
                at += length;
            }
            None => at += 1,
        }
    }
    found
}

fn values(searched: &Searched, text: &[u8], cut: usize) {
    let needles = &searched.needles;
    let (masked, hits) = hidden(searched, text, Hide::Mask);
    assert_eq!(masked.len(), text.len());
    assert_eq!(needles.is_in(text), hits > 0);
    assert_eq!(needles.tokens_of(text).count() as u64, hits);
    for (before, after) in text.iter().zip(&masked) {
        assert!(before == after || *after == b'*');
    }
    assert!(!needles.is_in(&masked));
    searched.assert_none_in(&masked);
    let (replaced, replacements) = hidden(searched, text, Hide::Replace);
    assert_eq!(replacements, hits);
    assert!(replaced.len() <= text.len() + text.len() / 12 * SealedToken::LEN);
    searched.assert_none_in(&replaced);

    // Up to any place and on from there is the same as at once.
    let mut parts = Vec::new();
    let (consumed, first) = needles.hide(text, cut, Hide::Replace, &mut parts);
    let rest = &text[consumed..];
    let (_, second) = needles.hide(rest, rest.len(), Hide::Replace, &mut parts);
    assert!(consumed >= cut && first + second == hits && parts == replaced);

    // What is held back depends on no letter.
    let letters = |text: &[u8]| -> Vec<u8> {
        text.iter().map(|byte| if *byte > b' ' { b'x' } else { *byte }).collect()
    };
    assert_eq!(needles.undecided(text), needles.undecided(&letters(text)));
    assert!(needles.undecided(text) < needles.longest());
    if let Ok(text) = str::from_utf8(text) {
        searched.assert_none_in(needles.redacted(text).as_bytes());
    }
}

fn hidden(searched: &Searched, text: &[u8], hide: Hide) -> (Vec<u8>, u64) {
    let mut out = Vec::new();
    let (consumed, hits) = searched.needles.hide(text, text.len(), hide, &mut out);
    assert_eq!(consumed, text.len());
    (out, hits)
}
