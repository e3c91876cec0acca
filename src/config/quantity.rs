//! Sizes, times and counts as people write them: the unit is part of the value, and zero never means "unlimited".

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(usize);

impl ByteSize {
    /// So many bytes.
    #[must_use]
    pub const fn bytes(bytes: usize) -> Self {
        Self(bytes)
    }

    /// So many times 1024 bytes.
    #[must_use]
    pub const fn kib(kib: usize) -> Self {
        Self(kib * 1024)
    }

    /// So many times 1024 KiB.
    #[must_use]
    pub const fn mib(mib: usize) -> Self {
        Self(mib * 1024 * 1024)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0
    }
}

/// What a limit counts in.
pub(super) trait Quantity: Copy + PartialOrd {
    /// Reads a text such as `64KiB`, `5m` or `1024`; zero is none.
    fn parse(text: &str) -> Result<Self, QuantityError>;
    /// Writes it as [`Quantity::parse`] reads it.
    fn show(self) -> String;
    /// What a JSON Schema says about it.
    fn schema() -> Schema;
    /// The name in a JSON Schema.
    const NAME: &'static str;
}

impl Quantity for ByteSize {
    const NAME: &'static str = "Size";

    fn parse(text: &str) -> Result<Self, QuantityError> {
        let (number, unit) = split(text)?;
        let factor: usize = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(QuantityError::SizeUnit),
        };
        let number = usize::try_from(number).map_err(|_overflow| QuantityError::TooLarge)?;
        number.checked_mul(factor).map(Self).ok_or(QuantityError::TooLarge)
    }

    fn show(self) -> String {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let unit = units
            .into_iter()
            .find(|&(factor, _)| self.0 >= factor && self.0.is_multiple_of(factor));
        let (factor, unit) = unit.unwrap_or((1, "B"));
        format!("{}{unit}", self.0 / factor)
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[1-9][0-9]*(B|KiB|MiB|GiB)$" })
    }
}

impl Quantity for Duration {
    const NAME: &'static str = "Time";

    fn parse(text: &str) -> Result<Self, QuantityError> {
        let (number, unit) = split(text)?;
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(QuantityError::TimeUnit),
        };
        number.checked_mul(millis).map(Self::from_millis).ok_or(QuantityError::TooLarge)
    }

    fn show(self) -> String {
        let millis = self.as_millis();
        let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        let unit = units
            .into_iter()
            .find(|&(factor, _)| millis >= factor && millis.is_multiple_of(factor));
        let (factor, unit) = unit.unwrap_or((1, "ms"));
        format!("{}{unit}", millis / factor)
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[1-9][0-9]*(ms|s|m|h)$" })
    }
}

impl Quantity for u32 {
    const NAME: &'static str = "Count";

    fn parse(text: &str) -> Result<Self, QuantityError> {
        match split(text)? {
            (number, "") => Self::try_from(number).map_err(|_overflow| QuantityError::TooLarge),
            _ => Err(QuantityError::CountUnit),
        }
    }

    fn show(self) -> String {
        self.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": Self::MAX })
    }
}

/// `64KiB` → 64, `KiB`. No sign, no fraction, no exponent, no space, no leading zero.
fn split(text: &str) -> Result<(u64, &str), QuantityError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).unwrap_or((text, ""));
    match number.as_bytes() {
        [] => Err(QuantityError::NotANumber),
        [b'0'] => Err(QuantityError::Zero),
        [b'0', ..] => Err(QuantityError::NotANumber),
        _ => Ok((number.parse().map_err(|_overflow| QuantityError::TooLarge)?, unit)),
    }
}

/// A quantity as written: a text that is read only once its place is known.
pub(super) struct Text<T> {
    pub(super) text: String,
    of: PhantomData<T>,
}

impl<T> fmt::Debug for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl<'de, T> Deserialize<'de> for Text<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { text: String::deserialize(deserializer)?, of: PhantomData })
    }
}

impl<T: Quantity> JsonSchema for Text<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::NAME.into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        T::schema()
    }
}

/// Why a text is not the wanted quantity; the message is also the hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Signs, fractions, exponents, spaces, leading zeros, words.
    #[error("write a whole number above zero, such as `10s`, `64KiB` or `100`")]
    NotANumber,
    /// Zero, which some programs take for "unlimited".
    #[error(
        "zero is not a limit, and there is no unlimited; write the largest value that you can afford"
    )]
    Zero,
    /// Overflow.
    #[error("the number is too large")]
    TooLarge,
    /// No unit or another one.
    #[error("a size needs one of the units `B`, `KiB`, `MiB`, `GiB`, such as `64KiB`")]
    SizeUnit,
    /// No unit or another one.
    #[error("a time needs one of the units `ms`, `s`, `m`, `h`, such as `10s`")]
    TimeUnit,
    /// A unit on a plain count.
    #[error("a count has no unit; write a plain number such as `100`")]
    CountUnit,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_carry_their_unit_and_are_written_as_they_are_read() {
        for text in ["1B", "1536B", "64KiB", "1MiB", "3GiB"] {
            assert_eq!(ByteSize::parse(text).unwrap().show(), text);
        }
        for text in ["1ms", "1500ms", "10s", "90s", "5m", "2h"] {
            assert_eq!(Duration::parse(text).unwrap().show(), text);
        }
        assert_eq!(ByteSize::parse("2KiB"), Ok(ByteSize::bytes(2048)));
        assert_eq!(Duration::parse("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(u32::parse("16384"), Ok(16_384));
    }

    #[test]
    fn zero_signs_overflow_and_missing_units_are_refused() {
        use QuantityError::{CountUnit, NotANumber, SizeUnit, TimeUnit, TooLarge, Zero};
        for (text, time, size, count) in [
            ("", NotANumber, NotANumber, NotANumber),
            ("0", Zero, Zero, Zero),
            ("0s", Zero, Zero, Zero),
            ("00s", NotANumber, NotANumber, NotANumber),
            ("-1", NotANumber, NotANumber, NotANumber),
            ("+1s", NotANumber, NotANumber, NotANumber),
            ("10x", TimeUnit, SizeUnit, CountUnit),
            ("1e99", TimeUnit, SizeUnit, CountUnit),
            ("1.5s", TimeUnit, SizeUnit, CountUnit),
            ("10 s", TimeUnit, SizeUnit, CountUnit),
            ("18446744073709551616", TooLarge, TooLarge, TooLarge),
            ("inf", NotANumber, NotANumber, NotANumber),
            ("unlimited", NotANumber, NotANumber, NotANumber),
            ("1kb", TimeUnit, SizeUnit, CountUnit),
            ("1S", TimeUnit, SizeUnit, CountUnit),
            ("0x10", Zero, Zero, Zero),
            ("1_000", TimeUnit, SizeUnit, CountUnit),
            ("٣s", NotANumber, NotANumber, NotANumber),
        ] {
            assert_eq!(Duration::parse(text), Err(time), "{text}");
            assert_eq!(ByteSize::parse(text), Err(size), "{text}");
            assert_eq!(u32::parse(text), Err(count), "{text}");
        }
        assert_eq!(Duration::parse("10"), Err(TimeUnit));
        assert_eq!(ByteSize::parse("10"), Err(SizeUnit));
        assert_eq!(ByteSize::parse("18446744073709551615GiB"), Err(TooLarge));
        assert_eq!(Duration::parse("18446744073709551615h"), Err(TooLarge));
        assert_eq!(u32::parse("4294967296"), Err(TooLarge));
    }
}
