//! Sealed tokens: what the sandbox holds in place of a value. Derived under the seal key, never stored.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;

use super::{SandboxId, SecretName};

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
        let tag = self.derive("tollgate/v1/sealed-token", sandbox, generation, secret.as_str());
        SealedToken { text: format!("{}{}", SealedToken::PREFIX, hex16(&tag)).into() }
    }

    /// The password with which one sandbox names itself to the proxy.
    #[must_use]
    pub fn proxy_token(&self, sandbox: &SandboxId, generation: u64) -> ProxyToken {
        ProxyToken {
            text: hex16(&self.derive("tollgate/v1/proxy-credential", sandbox, generation, "")),
        }
    }

    /// HMAC-SHA-256 over a label and length-prefixed fields, so that no two field lists collide.
    fn derive(&self, label: &str, sandbox: &SandboxId, generation: u64, name: &str) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        for field in [
            label.as_bytes(),
            sandbox.as_str().as_bytes(),
            &generation.to_be_bytes(),
            name.as_bytes(),
        ] {
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

/// What the sandbox holds in place of a value: `osb_sealed_` and 32 lower-case hex digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SealedToken {
    text: Arc<str>,
}

impl SealedToken {
    /// How every standard token starts.
    pub const PREFIX: &'static str = "osb_sealed_";
    /// The length of a standard token in bytes.
    pub const LEN: usize = Self::PREFIX.len() + 32;

    /// The token itself; it is no secret to the sandbox, and worthless elsewhere.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for SealedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedToken({}…)", Self::PREFIX)
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
