//! Where in a request a secret's token may stand.

use http::HeaderName;

use super::value::SecretValue;

/// The places of a request in which a token is replaced by the value. Whatever is not named stays closed: a host may publish what it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locations {
    /// Header fields, by this rule.
    pub header: HeaderRule,
    /// The query of the request target.
    pub query: bool,
    /// The path of the request target.
    pub path: bool,
    /// The body.
    pub body: bool,
    /// The text messages of a WebSocket, client to server.
    pub websocket: bool,
}

impl Locations {
    /// Nowhere.
    pub const NONE: Self =
        Self { header: HeaderRule::None, query: false, path: false, body: false, websocket: false };
}

impl Default for Locations {
    /// Where a secret may stand if the policy does not say.
    fn default() -> Self {
        Self { header: HeaderRule::Usual, ..Self::NONE }
    }
}

/// The header fields that may carry a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderRule {
    /// Every field but those that servers like to log or send back, which need naming.
    Usual,
    /// These fields only.
    Only(Vec<HeaderName>),
    /// No field: the secret stands elsewhere.
    None,
}

impl HeaderRule {
    /// Whether a token may be replaced in this field.
    #[must_use]
    pub fn admits(&self, name: &HeaderName) -> bool {
        match self {
            Self::Usual => !is_reflected(name),
            Self::Only(names) => names.contains(name),
            Self::None => false,
        }
    }
}

/// Fields that servers log or send back, and so need naming in `headers`.
#[must_use]
pub(super) fn is_reflected(name: &HeaderName) -> bool {
    let name = name.as_str();
    let exact = [
        "user-agent",
        "referer",
        "origin",
        "host",
        "via",
        "forwarded",
        "x-request-id",
        "traceparent",
        "range",
        "expect",
    ];
    let prefixes = ["x-forwarded-", "accept", "content-", "if-"];
    exact.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// A header field that the proxy adds itself; the sandbox sends nothing and learns nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inject {
    /// The field.
    pub header: HeaderName,
    /// What stands in front of the value.
    pub prefix: String,
    /// What stands behind it.
    pub suffix: String,
    /// The methods for which it is added; all if none are named.
    pub methods: Vec<http::Method>,
    /// The paths for which it is added; all if none are named.
    pub paths: Vec<crate::policy::PathGlob>,
}

impl Inject {
    /// The field's value around the real value.
    #[must_use]
    pub fn render(&self, value: &SecretValue) -> zeroize::Zeroizing<Vec<u8>> {
        let mut field = zeroize::Zeroizing::new(Vec::with_capacity(
            self.prefix.len() + value.len() + self.suffix.len(),
        ));
        field.extend_from_slice(self.prefix.as_bytes());
        field.extend_from_slice(value.expose());
        field.extend_from_slice(self.suffix.as_bytes());
        field
    }
}
