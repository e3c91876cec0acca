//! The real value of a secret, which is never printed, compared, cloned or serialised.

use std::fmt;

use zeroize::Zeroizing;

/// A real value, wiped when dropped.
///
/// There is no way to print, clone, compare or serialise one:
///
/// ```
/// let value = tollgate::secret::SecretValue::new(b"hunter2-hunter2".to_vec()).unwrap();
/// assert_eq!(format!("{value:?}"), "SecretValue(…)");
/// ```
///
/// ```compile_fail
/// let value = tollgate::secret::SecretValue::new(b"hunter2-hunter2".to_vec()).unwrap();
/// println!("{value}");
/// ```
///
/// ```compile_fail
/// let value = tollgate::secret::SecretValue::new(b"hunter2-hunter2".to_vec()).unwrap();
/// let copy = value.clone();
/// ```
///
/// ```compile_fail
/// let value = tollgate::secret::SecretValue::new(b"hunter2-hunter2".to_vec()).unwrap();
/// serde_json::to_string(&value);
/// ```
pub struct SecretValue {
    bytes: Zeroizing<Vec<u8>>,
}

impl SecretValue {
    /// The shortest value that is searched for in answers; shorter ones bind to exact hosts only.
    pub const SEARCHED_FROM: usize = 12;

    /// Takes a value over. Empty values and values above 64 KiB are refused.
    pub fn new(bytes: Vec<u8>) -> Result<Self, ValueError> {
        let bytes = Zeroizing::new(bytes);
        match bytes.len() {
            0 => Err(ValueError::Empty),
            1..=65_536 => Ok(Self { bytes }),
            _ => Err(ValueError::TooLong),
        }
    }

    /// The real bytes. Called where a token is substituted, where a request is signed, where answers are scrubbed, and where a token endpoint
    /// is asked, nowhere else.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the value is a legal header field value (RFC 9110 §5.5) that a server reads back unchanged.
    #[must_use]
    pub fn fits_header(&self) -> bool {
        let plain = self.bytes.iter().all(|&b| b == b'\t' || (b >= b' ' && b != 0x7f));
        let edge = |b: Option<&u8>| b.is_some_and(|b| matches!(b, b' ' | b'\t'));
        plain && !edge(self.bytes.first()) && !edge(self.bytes.last())
    }

    /// The length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether both are the same, in a time that does not tell how far they are.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        use subtle::ConstantTimeEq as _;
        bool::from(self.expose().ct_eq(other.expose()))
    }

    /// Never true: an empty value does not exist.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

/// Why bytes are not a usable value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Nothing at all, which is nearly always a mistake of the source.
    #[error("the value is empty")]
    Empty,
    /// More than 64 KiB.
    #[error("the value is longer than 64 KiB")]
    TooLong,
}
