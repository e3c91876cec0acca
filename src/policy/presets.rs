//! Presets: what is known of a frequent credential (shape, headers, hosts), so that a policy needs only its name.
//!
//! A preset is one secret of one of the shipped policies in `policies/presets`, which are built in as they are: there is no second table to
//! keep.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use super::diagnostic::{Findings, Source};
use super::file::{self, AllowEntry, WrittenSign};
use super::yaml;
use crate::host::HostPattern;
use crate::secret::{HeaderRule, Locations, Placeholder, SecretName};

/// What a secret with `preset: NAME` has, unless its own fields say otherwise.
#[derive(Debug)]
pub struct SecretPreset {
    /// Its name in policies.
    pub name: &'static str,
    /// The variable that its clients read.
    pub variable: SecretName,
    /// Where the secret may go.
    pub hosts: Vec<HostPattern>,
    /// Where in a request it may stand.
    pub locations: Locations,
    /// The shape of its token.
    pub placeholder: Option<Placeholder>,
    /// Whether it signs requests (`sign: aws-sigv4`) and never travels itself.
    pub signs: bool,
    /// What the store's allowlist gains: where its clients go, with the secret or without.
    pub(super) allow: Vec<AllowEntry>,
    /// What the store's denylist gains: hosts below a wildcard that belong to others.
    pub(super) deny: Vec<HostPattern>,
}

/// All presets, in the order in which they are listed.
pub fn presets() -> impl Iterator<Item = &'static SecretPreset> {
    BUILT_IN.iter()
}

/// The preset of a name.
pub(super) fn find(name: &str) -> Option<&'static SecretPreset> {
    presets().find(|preset| preset.name == name)
}

/// Their names.
pub(super) fn names() -> Vec<&'static str> {
    presets().map(|preset| preset.name).collect()
}

impl SecretPreset {
    /// The header fields that may carry it; none named: all but those that servers like to echo.
    #[must_use]
    pub fn headers(&self) -> Vec<&str> {
        match &self.locations.header {
            HeaderRule::Only(names) => names.iter().map(http::HeaderName::as_str).collect(),
            HeaderRule::Usual | HeaderRule::None => Vec::new(),
        }
    }

    /// The hosts that the store's allowlist gains.
    pub fn opens(&self) -> impl Iterator<Item = &HostPattern> {
        self.allow.iter().map(|entry| &entry.pattern)
    }
}

/// A line of the table: the preset's name, its policy, the secret there, and another shape if the policy's is not the one.
type Line = (&'static str, &'static str, &'static str, Option<&'static str>);

macro_rules! shipped {
    ($file:literal) => {
        include_str!(concat!("../../policies/presets/", $file, ".yaml"))
    };
}

const TABLE: &[Line] = &[
    ("anthropic", shipped!("anthropic"), "ANTHROPIC_API_KEY", None),
    ("aws-access-key-id", shipped!("aws"), "AWS_ACCESS_KEY_ID", None),
    ("aws-secret-access-key", shipped!("aws"), "AWS_SECRET_ACCESS_KEY", None),
    ("github", shipped!("github"), "GITHUB_TOKEN", None),
    (
        "github-fine-grained",
        shipped!("github"),
        "GITHUB_TOKEN",
        Some("github_pat_{sealed:22}_{sealed:59}"),
    ),
    ("gitlab", shipped!("gitlab"), "GITLAB_TOKEN", None),
    ("google-ai", shipped!("google-ai"), "GEMINI_API_KEY", None),
    ("huggingface", shipped!("huggingface"), "HF_TOKEN", None),
    ("openai", shipped!("openai"), "OPENAI_API_KEY", None),
    ("slack", shipped!("slack"), "SLACK_BOT_TOKEN", None),
    ("slack-app", shipped!("slack"), "SLACK_APP_TOKEN", None),
    ("stripe", shipped!("stripe"), "STRIPE_API_KEY", None),
    ("stripe-test", shipped!("stripe"), "STRIPE_API_KEY", Some("sk_test_{sealed:24}")),
];

static BUILT_IN: LazyLock<Vec<SecretPreset>> =
    LazyLock::new(|| TABLE.iter().filter_map(read).collect());

fn read(&(name, text, secret, shape): &Line) -> Option<SecretPreset> {
    let mut findings = Findings::default();
    let source = Arc::new(Source::new(&format!("the preset {name}"), text));
    let root = yaml::read(&source, &mut findings)?;
    let file = file::read(&root, Path::new(""), &mut findings);
    let store = file.stores.into_iter().next()?;
    let written =
        store.secrets.into_iter().find(|written| written.name.value.as_str() == secret)?;
    let allow = store
        .allow
        .unwrap_or_default()
        .into_iter()
        .map(|entry| AllowEntry { preset: Some(name), ..entry.value });
    let placeholder = match shape {
        Some(shape) => shape.parse().ok(),
        None => written.placeholder,
    };
    Some(SecretPreset {
        name,
        variable: written.name.value,
        hosts: written.hosts?.into_iter().map(|host| host.value).collect(),
        locations: written.locations,
        placeholder,
        signs: written.sign.is_some_and(|sign| matches!(sign.value, WrittenSign::UsualAws)),
        allow: allow.collect(),
        deny: store.deny.into_iter().map(|host| host.value).collect(),
    })
}
