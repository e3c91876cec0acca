//! Live sandboxes: how each is recognised, its sealed tokens, the policy that holds for it now.
//!
//! A [`Session`] is one immutable snapshot; a request loads it once and uses nothing else. A reload swaps snapshots, it never edits one.

mod exposure;
mod pace;
mod questions;
mod registry;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use foldhash::quality::RandomState;

use crate::host::Destination;
use crate::policy::{BoundSecret, EffectivePolicy};
use crate::secret::{
    Needles, Placeholder, ProxyToken, SandboxId, SealClash, SealKey, SealedToken, SecretName,
    StoreName, TokenFinder,
};
use crate::stores::LiveSecret;

pub use exposure::Exposure;
pub use pace::Pace;
pub use questions::Questions;
pub use registry::{Bounds, Caller, Recognised, Registry, RegistryError, Sandbox, SandboxSpec};

/// One sandbox under one policy.
#[derive(Debug)]
pub struct Session {
    id: SandboxId,
    policy: Arc<EffectivePolicy>,
    secrets: Vec<SealedSecret>,
    by_token: HashMap<Box<[u8]>, usize, RandomState>,
    finder: Arc<TokenFinder>,
    /// The same for texts in lower case, such as names of hosts.
    lowered: TokenFinder,
    proxy_token: ProxyToken,
    retired: Vec<(SealedToken, Arc<LiveSecret>)>,
    needles: ArcSwapOption<HeldNeedles>,
}

/// The automaton over the values that were held when it was built.
#[derive(Debug)]
struct HeldNeedles {
    versions: u64,
    needles: Arc<Needles>,
}

/// A source that a reload replaced or dropped.
#[derive(Clone, Debug)]
pub struct Retired {
    /// The secret's name.
    pub name: SecretName,
    /// Its source then.
    pub live: Arc<LiveSecret>,
    /// The shape of its token then.
    pub placeholder: Option<Placeholder>,
}

/// A secret of the session: its binding, its source and the token that stands for it.
pub struct SealedSecret {
    /// Where the secret may go.
    pub bound: Arc<BoundSecret>,
    /// Where the real value comes from.
    pub live: Arc<LiveSecret>,
    /// What the sandbox holds.
    pub token: SealedToken,
}

/// Neither a value that is searched for nor a token with its 64 bits is shorter than this, in bytes.
const SHORTEST_HIDDEN: usize = 11;

impl Session {
    /// Derives the tokens of every secret of the policy. `live` finds the source of a store's secret; one without a source is left out and
    /// so never opens.
    pub fn new(
        id: SandboxId,
        generation: u64,
        policy: Arc<EffectivePolicy>,
        seal_key: &SealKey,
        live: impl Fn(&StoreName, &SecretName) -> Option<Arc<LiveSecret>>,
        retired: Vec<Retired>,
    ) -> Result<Self, SealClash> {
        let seal = |bound: &Arc<BoundSecret>| {
            let shape = bound.placeholder.as_ref();
            let token = seal_key.seal_as(shape, &id, generation, &bound.name);
            live(&bound.store, &bound.name).map(|live| SealedSecret {
                bound: bound.clone(),
                live,
                token,
            })
        };
        let mut secrets: Vec<_> = policy.secrets().iter().filter_map(seal).collect();
        secrets.sort_by(|one, other| one.bound.name.cmp(&other.bound.name));
        let by_token = secrets
            .iter()
            .enumerate()
            .map(|(nth, secret)| (Box::from(secret.token.as_str().as_bytes()), nth))
            .collect();
        let tokens: Vec<_> = secrets.iter().map(|secret| secret.token.clone()).collect();
        let finder = Arc::new(TokenFinder::new(&tokens)?);
        let lowered: Vec<_> = tokens.iter().map(SealedToken::to_lower).collect();
        let lowered = TokenFinder::new(&lowered)?;
        let proxy_token = seal_key.proxy_token(&id, generation);
        let retired = retired
            .into_iter()
            .map(|old| {
                let shape = old.placeholder.as_ref();
                (seal_key.seal_as(shape, &id, generation, &old.name), old.live)
            })
            .collect();
        Ok(Self {
            id,
            policy,
            secrets,
            by_token,
            finder,
            lowered,
            proxy_token,
            retired,
            needles: ArcSwapOption::empty(),
        })
    }

    /// The sandbox.
    #[must_use]
    pub const fn id(&self) -> &SandboxId {
        &self.id
    }

    /// The policy that holds for it.
    #[must_use]
    pub const fn policy(&self) -> &Arc<EffectivePolicy> {
        &self.policy
    }

    /// Its secrets, by name.
    #[must_use]
    pub fn secrets(&self) -> &[SealedSecret] {
        &self.secrets
    }

    /// Finds its tokens, and whatever else has the sealed form.
    #[must_use]
    pub const fn finder(&self) -> &Arc<TokenFinder> {
        &self.finder
    }

    /// Whether the name of a host holds a token, in any letter case: resolvers shuffle it, and a canonical host has lost it.
    #[must_use]
    pub fn is_sealed_name(&self, name: &[u8]) -> bool {
        self.lowered.find(&name.to_ascii_lowercase()).next().is_some()
    }

    /// The secret that a token stands for; a constant-cost look-up.
    #[must_use]
    pub fn by_token(&self, token: &[u8]) -> Option<&SealedSecret> {
        self.by_token.get(token).and_then(|&nth| self.secrets.get(nth))
    }

    /// The secret of a name.
    #[must_use]
    pub fn by_name(&self, name: &SecretName) -> Option<&SealedSecret> {
        let nth = self.secrets.binary_search_by(|secret| secret.bound.name.cmp(name)).ok()?;
        self.secrets.get(nth)
    }

    /// The token of the secret that is given out there, if a request may be one to the token endpoint of one; the first by name of several.
    #[must_use]
    pub fn given_out_at(&self, destination: &Destination, target: &str) -> Option<&SealedToken> {
        let there = |secret: &&SealedSecret| {
            secret.live.token_url().is_some_and(|url| url.may_be(destination, target))
        };
        self.secrets.iter().find(there).map(|secret| &secret.token)
    }

    /// What answers are searched for: every value held now or retired within the hour. `None` while no value was ever fetched.
    ///
    /// Built anew only after a value came or went.
    #[must_use]
    pub fn needles(&self) -> Option<Arc<Needles>> {
        let versions = self.sources().map(|(_, live)| live.version()).fold(0, u64::wrapping_add);
        let known = self.needles.load();
        if let Some(known) = known.as_ref().filter(|known| known.versions == versions) {
            return (known.needles.longest() > 0).then(|| known.needles.clone());
        }
        let held = |(token, live): (&SealedToken, &Arc<LiveSecret>)| {
            live.held().into_iter().map(|value| (token.clone(), value)).collect::<Vec<_>>()
        };
        let values: Vec<_> = self.sources().flat_map(held).collect();
        let needles = Arc::new(Needles::new(&values));
        self.needles.store(Some(Arc::new(HeldNeedles { versions, needles: needles.clone() })));
        (needles.longest() > 0).then_some(needles)
    }

    /// A text as an operator may read it: `tok:` and the secret's name stand where a value or a token stood.
    #[must_use]
    pub fn redacted<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if text.len() < SHORTEST_HIDDEN {
            return Cow::Borrowed(text);
        }
        let needles = self.needles();
        match needles.as_ref().map_or(Cow::Borrowed(text), |needles| needles.redacted(text)) {
            Cow::Borrowed(text) => self.without_tokens(text),
            Cow::Owned(sealed) => Cow::Owned(self.without_tokens(&sealed).into_owned()),
        }
    }

    /// Whether a text holds a value.
    pub(crate) fn holds_value(&self, text: &str) -> bool {
        let needles = self.needles();
        needles.is_some_and(|needles| matches!(needles.redacted(text), Cow::Owned(_)))
    }

    /// A text in which `tok:` and the secret's name stand where a token stood, in any letter case.
    #[must_use]
    pub fn without_tokens<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut clean = String::new();
        let mut copied = 0;
        for found in self.lowered.find(text.to_ascii_lowercase().as_bytes()) {
            let token = text.get(found.clone()).unwrap_or_default();
            let is_its = |secret: &&SealedSecret| secret.token.as_str().eq_ignore_ascii_case(token);
            let secret = self.secrets.iter().find(is_its);
            clean.push_str(text.get(copied..found.start).unwrap_or_default());
            clean.push_str("tok:");
            clean.push_str(secret.map_or("?", |secret| secret.bound.name.as_str()));
            copied = found.end;
        }
        if copied == 0 {
            return Cow::Borrowed(text);
        }
        clean.push_str(text.get(copied..).unwrap_or_default());
        Cow::Owned(clean)
    }

    fn sources(&self) -> impl Iterator<Item = (&SealedToken, &Arc<LiveSecret>)> {
        let live = self.secrets.iter().map(|secret| (&secret.token, &secret.live));
        live.chain(self.retired.iter().map(|(token, live)| (token, live)))
    }

    /// The password of its proxy credentials.
    #[must_use]
    pub const fn proxy_token(&self) -> &ProxyToken {
        &self.proxy_token
    }

    /// Whether any secret is added, or signed with, by the proxy itself.
    #[must_use]
    pub fn injects(&self) -> bool {
        self.secrets.iter().any(|secret| secret.bound.written_header().is_some())
    }
}

impl fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedSecret").field("name", &self.bound.name).finish_non_exhaustive()
    }
}
