//! The streaming engine for text: bytes go in piece by piece and come out with every token opened, whatever the pieces are.
//!
//! What is held back is the end of a piece that may be the beginning of a token, never more than one token in its escapes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::super::encoding::Encoding;
use super::kind::Kind;
use super::protobuf::{Edit, repair_lengths};
use crate::secret::{SealedToken, SecretName, TokenFinder};

/// The tokens that open in a body, with their values as they are written there.
#[derive(Default)]
pub(super) struct Values {
    by_token: HashMap<Box<[u8]>, Written>,
}

struct Written {
    secret: SecretName,
    /// With each of the escapes that a body of this kind may want. None: the value has no such form.
    forms: Vec<(Encoding, Option<Zeroizing<Vec<u8>>>)>,
}

impl Values {
    pub(super) fn add(
        &mut self,
        token: &SealedToken,
        secret: SecretName,
        value: &[u8],
        kind: &Kind,
    ) {
        let form = |encoding: &Encoding| (*encoding, encoding.encode(value));
        let written = Written { secret, forms: kind.encodings().iter().map(form).collect() };
        self.by_token.insert(token.as_str().as_bytes().into(), written);
    }

    fn get(&self, token: &[u8], encoding: Encoding) -> Option<Result<(&SecretName, &[u8]), Unfit>> {
        let Written { secret, forms } = self.by_token.get(token)?;
        let form = forms.iter().find(|(form, _)| *form == encoding);
        let value = form.and_then(|(_, value)| Some((secret, value.as_ref()?.as_slice())));
        Some(value.ok_or_else(|| Unfit::Form(secret.clone())))
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Values").field("tokens", &self.by_token.len()).finish()
    }
}

/// Why a token cannot be opened in a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Its value has no form in this kind of body.
    Form(SecretName),
    /// The values of one piece would add more than may be held.
    TooMuch,
}

/// What was found in a body.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::proxy::substitute) struct Tally {
    /// The secrets that were opened, each once.
    pub(in crate::proxy::substitute) opened: Vec<SecretName>,
    /// How many tokens went on as they were.
    pub(in crate::proxy::substitute) passed: u64,
    /// Bytes of values that were written.
    pub(super) written: usize,
}

impl Tally {
    /// Notes an opened token; a token is short and its value may be long, so what they add is bounded.
    fn open(&mut self, secret: &SecretName, value: &[u8], most: usize) -> Result<(), Unfit> {
        self.written += value.len();
        if self.written > most {
            return Err(Unfit::TooMuch);
        }
        if !self.opened.contains(secret) {
            self.opened.push(secret.clone());
        }
        Ok(())
    }
}

/// The state between two pieces of one text.
#[derive(Debug)]
pub(super) struct Text {
    finder: Arc<TokenFinder>,
    values: Arc<Values>,
    encoding: Encoding,
    held: Vec<u8>,
    /// How many bytes of values may be written until the tally is taken.
    most: usize,
    pub(super) tally: Tally,
}

impl Text {
    pub(super) fn new(
        finder: Arc<TokenFinder>,
        values: Arc<Values>,
        encoding: Encoding,
        most: usize,
    ) -> Self {
        Self { finder, values, encoding, held: Vec::new(), most, tally: Tally::default() }
    }

    /// Takes a piece, and appends what of it and of the pieces before is settled.
    pub(super) fn push(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Unfit> {
        data.chunks(PIECE).try_for_each(|piece| {
            self.held.extend_from_slice(piece);
            self.settle(End::Open, out)
        })
    }

    /// The text has ended: appends what is left.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Unfit> {
        self.settle(End::Reached, out)
    }

    /// The escapes of the text.
    pub(super) const fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The text has ended, and one with these escapes begins.
    pub(super) fn change(&mut self, encoding: Encoding, out: &mut Vec<u8>) -> Result<(), Unfit> {
        self.finish(out)?;
        self.encoding = encoding;
        Ok(())
    }

    /// Appends a whole message, rewritten: text with these escapes, or protobuf with the lengths around every token.
    pub(super) fn message(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), Unfit> {
        if self.encoding != Encoding::Raw {
            self.push(message, out)?;
            return self.finish(out);
        }
        let mut edits = Vec::new();
        for token in self.finder.find(message) {
            match self.values.get(message.get(token.clone()).unwrap_or_default(), self.encoding) {
                Some(opened) => {
                    let (secret, value) = opened?;
                    self.tally.open(secret, value, self.most)?;
                    edits.push(Edit { at: token, with: Cow::Borrowed(value) });
                }
                None => self.tally.passed += 1,
            }
        }
        if !edits.is_empty() {
            repair_lengths(message, &mut edits);
        }
        let mut copied = 0;
        for Edit { at, with } in edits {
            out.extend_from_slice(message.get(copied..at.start).unwrap_or_default());
            out.extend_from_slice(&with);
            copied = at.end;
        }
        out.extend_from_slice(message.get(copied..).unwrap_or_default());
        Ok(())
    }

    fn settle(&mut self, end: End, out: &mut Vec<u8>) -> Result<(), Unfit> {
        let text = std::mem::take(&mut self.held);
        let decoded = self.encoding.decode(&text, &self.finder);
        let undecided = |from: usize| match end {
            End::Open => from + self.finder.undecided(decoded.text.get(from..).unwrap_or_default()),
            End::Reached => decoded.text.len(),
        };
        let mut settled = undecided(0);
        let mut copied = 0;
        for token in self.finder.find(&decoded.text) {
            if token.start >= settled {
                break;
            }
            // A token that is whole decides about all beginnings within it.
            if token.end > settled {
                settled = undecided(token.end);
            }
            let (start, end) = (decoded.source(token.start), decoded.source(token.end));
            match self.values.get(decoded.text.get(token).unwrap_or_default(), self.encoding) {
                Some(opened) => {
                    let (secret, value) = opened?;
                    self.tally.open(secret, value, self.most)?;
                    out.extend_from_slice(text.get(copied..start).unwrap_or_default());
                    out.extend_from_slice(value);
                    copied = end;
                }
                None => self.tally.passed += 1,
            }
        }
        let left = match end {
            End::Open => decoded.source(settled),
            End::Reached => text.len(),
        };
        out.extend_from_slice(text.get(copied..left).unwrap_or_default());
        self.held.extend_from_slice(text.get(left..).unwrap_or_default());
        Ok(())
    }
}

/// Whether more of the text may come.
#[derive(Clone, Copy)]
enum End {
    Open,
    Reached,
}

/// So much is looked at in one go, so that what is held for it stays small however large the pieces are.
const PIECE: usize = 16 * 1024;
