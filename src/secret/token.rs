//! Sealed tokens: what the sandbox holds in place of a value. Derived under the seal key, never stored.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;

use super::placeholder::Part;
use super::{Placeholder, SandboxId, SecretName};

/// The key under which all tokens of an installation (or a fleet) are derived.
pub struct SealKey {
    key: hmac::Key,
}

impl SealKey {
    /// Takes 32 random bytes.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, bytes) }
    }

    /// The sealed token of one secret for one sandbox. The same inputs give the same token on every Tollgate with this key.
    #[must_use]
    pub fn seal(&self, sandbox: &SandboxId, generation: u64, secret: &SecretName) -> SealedToken {
        let tag =
            self.derive("tollgate/v1/sealed-token", sandbox, generation, secret.as_str(), None);
        SealedToken { text: format!("{}{}", SealedToken::PREFIX, hex16(&tag)).into() }
    }

    /// The same in the shape of a placeholder, if there is one.
    #[must_use]
    pub fn seal_as(
        &self,
        shape: Option<&Placeholder>,
        sandbox: &SandboxId,
        generation: u64,
        secret: &SecretName,
    ) -> SealedToken {
        let Some(shape) = shape else { return self.seal(sandbox, generation, secret) };
        let label = "tollgate/v1/shaped-token";
        let block = |nth| self.derive(label, sandbox, generation, secret.as_str(), Some(nth));
        let mut bytes = (0u64..).flat_map(|nth| block(nth).as_ref().to_vec());
        let text: String = shape.parts().iter().map(|part| expanded(part, &mut bytes)).collect();
        SealedToken { text: text.into() }
    }

    /// The password with which one sandbox names itself to the proxy.
    #[must_use]
    pub fn proxy_token(&self, sandbox: &SandboxId, generation: u64) -> ProxyToken {
        ProxyToken {
            text: hex16(&self.derive(
                "tollgate/v1/proxy-credential",
                sandbox,
                generation,
                "",
                None,
            )),
        }
    }

    /// HMAC-SHA-256 over a label and length-prefixed fields, so that no two field lists collide. What needs more than one tag numbers them.
    fn derive(
        &self,
        label: &str,
        sandbox: &SandboxId,
        generation: u64,
        name: &str,
        block: Option<u64>,
    ) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        let block = block.map(u64::to_be_bytes);
        let fields = [
            label.as_bytes(),
            sandbox.as_str().as_bytes(),
            &generation.to_be_bytes(),
            name.as_bytes(),
        ];
        for field in fields.into_iter().chain(block.as_ref().map(|block| block.as_slice())) {
            context.update(&(field.len() as u64).to_be_bytes());
            context.update(field);
        }
        context.sign()
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(…)")
    }
}

/// The first 128 bits of a tag as 32 lower-case hex digits.
fn hex16(tag: &hmac::Tag) -> String {
    use fmt::Write as _;
    tag.as_ref().iter().take(16).fold(String::with_capacity(32), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap_or_default();
        text
    })
}

/// One part of a shape. Bytes that would favour some characters are skipped.
fn expanded(part: &Part, bytes: &mut impl Iterator<Item = u8>) -> String {
    match part {
        Part::Literal(text) => text.clone(),
        Part::Sealed { length, alphabet } => {
            let size = alphabet.len();
            let fair = bytes.map(usize::from).filter(|byte| *byte < 256 - 256 % size);
            let chosen = fair.filter_map(|byte| alphabet.get(byte % size));
            chosen.take(*length).map(|&byte| char::from(byte)).collect()
        }
    }
}

/// What the sandbox holds in place of a value: `osb_sealed_` and 32 lower-case hex digits, or a placeholder of the secret's own shape.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SealedToken {
    text: Arc<str>,
}

impl SealedToken {
    /// How every standard token starts.
    pub const PREFIX: &'static str = "osb_sealed_";
    /// The length of a standard token in bytes.
    pub const LEN: usize = Self::PREFIX.len() + 32;

    /// Whether a token may hold this byte, in whatever shape it is.
    #[must_use]
    pub const fn may_hold(byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
    }

    /// Whether it has the form that all installations know.
    #[must_use]
    pub fn is_standard(&self) -> bool {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let digits = self.text.strip_prefix(Self::PREFIX);
        digits.is_some_and(|digits| digits.len() == 32 && digits.bytes().all(digit))
    }

    #[cfg(test)]
    pub(crate) fn of_text(text: &str) -> Self {
        Self { text: text.into() }
    }

    /// The token as it stands in texts of lower case, such as names of hosts.
    pub(crate) fn to_lower(&self) -> Self {
        Self { text: self.text.to_ascii_lowercase().into() }
    }

    /// The token itself; it is no secret to the sandbox, and worthless elsewhere.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for SealedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_standard() {
            "SealedToken(osb_sealed_…)"
        } else {
            "SealedToken(…)"
        })
    }
}

/// The password of a sandbox's proxy credentials.
pub struct ProxyToken {
    text: String,
}

impl ProxyToken {
    /// Compares in constant time.
    #[must_use]
    pub fn matches(&self, presented: &[u8]) -> bool {
        subtle::ConstantTimeEq::ct_eq(self.text.as_bytes(), presented).into()
    }

    /// The text, for `tollgate env` and the answer that registers a sandbox.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for ProxyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shaped_token_has_its_shape_and_differs_like_every_other() {
        let key = SealKey::new(&[7; 32]);
        let shape: Placeholder = "ey.{sealed:40:A-C}-{sealed:100:0-9}".parse().unwrap();
        let seal = |sandbox: &str, generation, name: &str| {
            key.seal_as(Some(&shape), &sandbox.parse().unwrap(), generation, &name.parse().unwrap())
        };
        let token = seal("sb-1", 0, "KEY");
        assert_eq!(token, seal("sb-1", 0, "KEY"));
        for other in [seal("sb-2", 0, "KEY"), seal("sb-1", 1, "KEY"), seal("sb-1", 0, "KEZ")] {
            assert_ne!(token, other);
        }
        let (letters, digits) =
            token.as_str().strip_prefix("ey.").unwrap().split_once('-').unwrap();
        assert_eq!((letters.len(), digits.len()), (40, 100));
        assert!("ABC".chars().all(|c| letters.contains(c)), "{letters}");
        assert!(letters.chars().all(|c| "ABC".contains(c)), "{letters}");
        assert!(('0'..='9').all(|c| digits.contains(c)), "{digits}");
        assert!(digits.bytes().all(|byte| byte.is_ascii_digit()), "{digits}");
    }

    #[test]
    fn tokens_differ_in_every_field_and_repeat_for_the_same_fields() {
        let key = SealKey::new(&[7; 32]);
        let seal = |sandbox: &str, generation, name: &str| {
            key.seal(&sandbox.parse().unwrap(), generation, &name.parse().unwrap())
        };
        let token = seal("sb-1", 0, "KEY");
        assert_eq!(token, seal("sb-1", 0, "KEY"));
        assert_eq!(token.as_str().len(), SealedToken::LEN);
        for other in [
            seal("sb-2", 0, "KEY"),
            seal("sb-1", 1, "KEY"),
            seal("sb-1", 0, "KEY2"),
            seal("sb-1K", 0, "EY"),
        ] {
            assert_ne!(token, other);
        }
        assert_ne!(
            token,
            SealKey::new(&[8; 32]).seal(&"sb-1".parse().unwrap(), 0, &"KEY".parse().unwrap())
        );
        assert!(!token.as_str().contains(key.proxy_token(&"sb-1".parse().unwrap(), 0).reveal()));
    }
}
