//! Skims a text for needles at the speed of memory: most answers hold none, and that must cost next to nothing.
//!
//! Every needle gives up a window of one common width. A window that stands anywhere in a text covers exactly one of the places that lie a
//! stride apart, so it is enough to look up the four bytes there: in a bit table first, then among the needles that hold them. Only a whole
//! needle that really stands there is reported.
//!
//! A text can hold so many beginnings of needles, or needles can be so alike, that comparing them costs more than the automaton's even pace.
//! Then the skim gives up and says how far it came, so that all searching stays linear whatever the values are.

use zeroize::Zeroizing;

/// Where needles are, by the four bytes that stand at a place inside their windows.
pub(super) struct Skim {
    needles: Vec<Zeroizing<Vec<u8>>>,
    /// How far apart the looked-at places lie.
    stride: usize,
    /// A bit for each hash of four bytes of a window.
    marks: Box<[u64]>,
    marks_shift: u32,
    /// Where the places of each bucket begin; one more than there are buckets.
    buckets: Box<[u32]>,
    buckets_shift: u32,
    places: Box<[Place]>,
}

/// Four bytes of a needle.
#[derive(Clone, Copy)]
struct Place {
    needle: u32,
    /// Where in the needle they begin.
    at: u32,
}

/// How many bytes one look takes in.
const GRAM: usize = 4;

/// Beyond this a longer stride saves less than its larger tables cost.
const MOST_STRIDE: usize = 16;

/// The shortest needle that can be skimmed for.
pub(super) const SHORTEST: usize = 8;

/// What a skim came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Skimmed {
    /// The text holds no needle.
    Clear,
    /// A place inside the first whole needle that is met, though not always in the leftmost.
    Met(usize),
    /// Comparing costs too much: a needle may stand around this place, or behind it.
    Tired(usize),
}

/// How many bytes may be compared for each byte of text. Comparing so many takes about as long as the automaton takes for one.
const PATIENCE: usize = 32;
/// What may be compared on top of that; a common beginning of a value now and then is nothing yet.
const HEAD_START: usize = 4 * 1024;
/// So much is compared at once, and counted even if the first byte tells.
const STEP: usize = 32;

impl Skim {
    /// Prepares the search for `needles`, of which each has at least [`SHORTEST`] bytes.
    pub(super) fn new(needles: Vec<Zeroizing<Vec<u8>>>) -> Self {
        let shortest = needles.iter().map(|needle| needle.len()).min().unwrap_or(SHORTEST);
        let stride = (shortest.max(GRAM) - GRAM + 1).min(MOST_STRIDE);
        let width = stride + GRAM - 1;
        let mut grams: Vec<(u32, Place)> = Vec::with_capacity(needles.len() * stride);
        for (nth, needle) in (0_u32..).zip(&needles) {
            // Values often share their beginning (`ghp_…`) or their end; the middle tells them apart.
            let middle = needle.len().saturating_sub(width) / 2;
            let window = needle.windows(GRAM).enumerate().skip(middle).take(stride);
            grams.extend(window.filter_map(|(at, gram)| {
                let place = Place { needle: nth, at: u32::try_from(at).ok()? };
                Some((hash(*gram.first_chunk()?), place))
            }));
        }
        let bits = grams.len().next_power_of_two().trailing_zeros();
        let marks_bits = (bits + 5).clamp(10, 22);
        let buckets_bits = bits.clamp(6, 20);
        let (marks_shift, buckets_shift) = (32 - marks_bits, 32 - buckets_bits);
        let mut marks = vec![0_u64; 1 << (marks_bits - 6)].into_boxed_slice();
        for (hash, _) in &grams {
            let (word, bit) = mark(*hash, marks_shift);
            if let Some(word) = marks.get_mut(word) {
                *word |= bit;
            }
        }
        grams.sort_unstable_by_key(|(hash, place)| (*hash >> buckets_shift, place.needle));
        let starts =
            |bucket: u32| grams.partition_point(|(hash, _)| (*hash >> buckets_shift) < bucket);
        let buckets = (0..=1_u32 << buckets_bits)
            .map(|bucket| u32::try_from(starts(bucket)).unwrap_or(u32::MAX))
            .collect();
        let places = grams.iter().map(|(_, place)| *place).collect();
        Self { needles, stride, marks, marks_shift, buckets, buckets_shift, places }
    }

    /// Looks for the first whole needle that begins at or after `from`.
    pub(super) fn next(&self, text: &[u8], from: usize) -> Skimmed {
        self.next_with(text, from, &mut 0)
    }

    /// The same, adding up how many bytes were compared.
    fn next_with(&self, text: &[u8], from: usize, compared: &mut usize) -> Skimmed {
        let first = from + self.stride - 1;
        let looked_at = text.get(first..).unwrap_or_default();
        for (nth, stretch) in looked_at.chunks(self.stride).enumerate() {
            let Some(gram) = stretch.first_chunk() else { return Skimmed::Clear };
            let hash = hash(*gram);
            if self.is_marked(hash) {
                let at = first + nth * self.stride;
                if self.is_needle(text, from, at, hash, compared) {
                    return Skimmed::Met(at);
                }
                if *compared > patience(from, at) {
                    return Skimmed::Tired(at);
                }
            }
        }
        Skimmed::Clear
    }

    #[inline]
    fn is_marked(&self, hash: u32) -> bool {
        let (word, bit) = mark(hash, self.marks_shift);
        self.marks.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Whether a whole needle stands at or after `from` with some part of its window at `at`; not told if finding out takes too long.
    #[inline(never)]
    fn is_needle(
        &self,
        text: &[u8],
        from: usize,
        at: usize,
        hash: u32,
        compared: &mut usize,
    ) -> bool {
        let most = patience(from, at);
        let bucket = (hash >> self.buckets_shift) as usize;
        let bound = |nth: usize| self.buckets.get(nth).map(|&bound| bound as usize);
        let (Some(start), Some(end)) = (bound(bucket), bound(bucket + 1)) else { return false };
        for place in self.places.get(start..end).unwrap_or_default() {
            if *compared > most {
                return false;
            }
            let needle = self.needles.get(place.needle as usize);
            let start = at.checked_sub(place.at as usize).filter(|start| *start >= from);
            let (Some(needle), Some(start)) = (needle, start) else { continue };
            if begins(text.get(start..).unwrap_or_default(), needle, compared) {
                return true;
            }
        }
        false
    }
}

/// Whether a text begins with a needle, step by step so that it is known how much was compared.
fn begins(text: &[u8], needle: &[u8], compared: &mut usize) -> bool {
    text.len() >= needle.len()
        && text.chunks(STEP).zip(needle.chunks(STEP)).all(|(text, needle)| {
            *compared += STEP;
            text.starts_with(needle)
        })
}

/// How many bytes may be compared on the way to a place.
const fn patience(from: usize, at: usize) -> usize {
    HEAD_START + PATIENCE * (at - from)
}

/// Multiplicative hashing: the high bits depend on all four bytes.
#[inline]
const fn hash(gram: [u8; GRAM]) -> u32 {
    u32::from_le_bytes(gram).wrapping_mul(0x9e37_79b1)
}

#[inline]
const fn mark(hash: u32, shift: u32) -> (usize, u64) {
    let index = hash >> shift;
    ((index >> 6) as usize, 1 << (index & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skim(needles: &[&str]) -> Skim {
        let needles = needles.iter().map(|needle| Zeroizing::new(needle.as_bytes().to_vec()));
        Skim::new(needles.collect())
    }

    #[test]
    fn what_is_compared_grows_with_the_text_whatever_the_needles_are() {
        let long = "a".repeat(60_000);
        let alike: Vec<String> =
            (0..500).map(|nth| format!("alike-to-a-middle-{nth:03}")).collect();
        let alike: Vec<&str> = alike.iter().map(String::as_str).collect();
        let near = "a".repeat(59_999) + "b";
        for (needles, text) in [
            (vec![long.as_str()], near.repeat(3)),
            (vec![long.as_str(), "aaaaaaaaaaab"], "a".repeat(59_999)),
            (vec!["abababababab", long.as_str()], "ab".repeat(5)),
            (alike, "alike-to-a-middle-x".repeat(1000)),
        ] {
            let skim = skim(&needles);
            let mut compared = 0;
            let came = match skim.next_with(text.as_bytes(), 0, &mut compared) {
                Skimmed::Met(at) => panic!("nothing stands at {at}"),
                Skimmed::Tired(at) => at,
                Skimmed::Clear => text.len(),
            };
            // The last comparison may be a whole one.
            let most = patience(0, came) + text.len().min(long.len()) + STEP;
            assert!(compared <= most, "{compared} of at most {most} for {came}");
        }
    }

    #[test]
    fn a_common_beginning_now_and_then_tires_nobody() {
        let pem = format!("-----BEGIN CERTIFICATE-----{}", "0123456789abcdefXYZ".repeat(100));
        let (begun, _) = pem.split_at(pem.len() - 1);
        let text = format!("{begun} and {}", "other words ".repeat(20)).repeat(50);
        assert_eq!(skim(&[&pem]).next(text.as_bytes(), 0), Skimmed::Clear);
        let found = format!("{text}{pem}");
        assert!(
            matches!(skim(&[&pem]).next(found.as_bytes(), 0), Skimmed::Met(at) if at > text.len())
        );
    }
}
