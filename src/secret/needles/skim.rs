//! Skims a text for needles at the speed of memory: most answers hold none, and that must cost next to nothing.
//!
//! Every needle gives up a window of one common width. A window that stands anywhere in a text covers exactly one of the places that lie a
//! stride apart, so it is enough to look up the four bytes there: in a bit table first, then among the needles that hold them. Only a whole
//! needle that really stands there is reported, so a text full of near misses is as cheap as any other.

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

    /// A place inside the first whole needle that is met at or after `from`, though not always in the leftmost; none if `text` holds none.
    pub(super) fn next(&self, text: &[u8], from: usize) -> Option<usize> {
        let first = from + self.stride - 1;
        let looked_at = text.get(first..)?;
        for (nth, stretch) in looked_at.chunks(self.stride).enumerate() {
            let hash = hash(*stretch.first_chunk()?);
            if self.is_marked(hash) {
                let at = first + nth * self.stride;
                if self.is_needle(text, from, at, hash) {
                    return Some(at);
                }
            }
        }
        None
    }

    #[inline]
    fn is_marked(&self, hash: u32) -> bool {
        let (word, bit) = mark(hash, self.marks_shift);
        self.marks.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Whether a whole needle stands at or after `from` with some part of its window at `at`.
    #[inline(never)]
    fn is_needle(&self, text: &[u8], from: usize, at: usize, hash: u32) -> bool {
        let bucket = (hash >> self.buckets_shift) as usize;
        let bound = |nth: usize| self.buckets.get(nth).map(|&bound| bound as usize);
        let (Some(start), Some(end)) = (bound(bucket), bound(bucket + 1)) else { return false };
        self.places.get(start..end).unwrap_or_default().iter().any(|place| {
            let Some(needle) = self.needles.get(place.needle as usize) else { return false };
            let Some(start) = at.checked_sub(place.at as usize) else { return false };
            start >= from && text.get(start..).is_some_and(|text| text.starts_with(needle))
        })
    }
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
