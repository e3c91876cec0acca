//! Counts tokens in a body that goes on as it is, over the seams of its pieces too.

use std::sync::Arc;

use crate::secret::TokenFinder;

/// The state between two pieces of one body.
#[derive(Debug)]
pub(in crate::proxy) struct Counter {
    finder: Arc<TokenFinder>,
    /// The end of what came so far, shorter than any token that would be whole in it.
    tail: Vec<u8>,
}

impl Counter {
    pub(in crate::proxy) const fn new(finder: Arc<TokenFinder>) -> Self {
        Self { finder, tail: Vec::new() }
    }

    /// Takes a piece; returns how many tokens ended in it.
    pub(in crate::proxy) fn count(&mut self, data: &[u8]) -> u64 {
        let most = self.finder.longest().saturating_sub(1);
        let before = self.tail.len();
        self.tail.extend_from_slice(data.get(..most).unwrap_or(data));
        let across = self.finder.find(&self.tail);
        let across = across.filter(|token| token.start < before && token.end > before).count();
        if data.len() > most {
            self.tail.clear();
            self.tail.extend_from_slice(data.get(data.len() - most..).unwrap_or_default());
        }
        let surplus = self.tail.len().saturating_sub(most);
        self.tail.drain(..surplus);
        (across + self.finder.find(data).count()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SealedToken;

    #[test]
    fn every_token_is_counted_once_however_the_body_is_split() {
        let token = format!("{}{}", SealedToken::PREFIX, "0123456789abcdef".repeat(2));
        let body = format!("a {token}{token} osb_sealed_ {token}");
        for size in 1..body.len() {
            let mut counter = Counter::new(Arc::default());
            let count: u64 = body.as_bytes().chunks(size).map(|piece| counter.count(piece)).sum();
            assert_eq!(count, 3, "pieces of {size}");
        }
    }
}
