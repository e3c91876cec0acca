//! Policy files as they hold now: read, compiled, and put into force as a whole or not at all.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::policy::{Diagnostic, LayerError, OperatorRules, PolicySet, Severity};
use crate::secret::{
    Placeholder, SandboxId, SealClash, SealKey, SecretName, SourceSpec, StoreName,
};
use crate::session::{Registry, RegistryError, Retired, SandboxSpec, Session};
use crate::shutdown::Tasks;
use crate::stores::{LiveSecret, TokenEndpoints};

/// Puts policy files into force.
#[derive(Debug)]
pub struct Policies {
    paths: Vec<PathBuf>,
    operator: OperatorRules,
    only: Option<SandboxId>,
    seal_key: SealKey,
    registry: Arc<Registry>,
    tasks: Tasks,
    endpoints: TokenEndpoints,
    sources: Mutex<Sources>,
}

/// The live sources, which outlive a reload that does not change them.
#[derive(Debug, Default)]
struct Sources {
    live: BTreeMap<(StoreName, SecretName), InForce>,
    /// Sources that a reload replaced or dropped: their values are searched for a while longer.
    retired: Vec<(StoreName, Retired, Instant)>,
}

/// One secret's source, and the shape of its token.
#[derive(Debug)]
struct InForce {
    spec: SourceSpec,
    live: Arc<LiveSecret>,
    placeholder: Option<Placeholder>,
}

/// How long a value that is no longer used is still searched for in answers.
const RETIRED_FOR: Duration = Duration::from_hours(1);

/// What a successful load found.
#[derive(Debug)]
pub struct Report {
    /// Warnings.
    pub warnings: Vec<Diagnostic>,
    /// How many sandboxes are registered.
    pub sandboxes: usize,
}

impl Policies {
    /// For these files; nothing is loaded yet.
    #[must_use]
    pub fn new(
        paths: Vec<PathBuf>,
        operator: OperatorRules,
        only: Option<SandboxId>,
        seal_key: SealKey,
        registry: Arc<Registry>,
        tasks: Tasks,
    ) -> Self {
        let (endpoints, sources) = (TokenEndpoints::default(), Mutex::default());
        Self { paths, operator, only, seal_key, registry, tasks, endpoints, sources }
    }

    /// The files and folders that are read.
    #[must_use]
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The way to token endpoints, for whoever can open it.
    #[must_use]
    pub const fn token_endpoints(&self) -> &TokenEndpoints {
        &self.endpoints
    }

    /// Reads all files and replaces what is in force. On any error everything stays as it was.
    pub fn load(&self) -> Result<Report, LoadError> {
        let loaded = PolicySet::load(&self.paths);
        let Some(set) = loaded.set else { return Err(LoadError::Files(loaded.diagnostics)) };
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let next = sources.next(&set, &self.endpoints, &self.tasks);
        let mut specs = Vec::new();
        for (id, entry) in set.sandboxes() {
            let policy = Arc::new(set.effective(&entry.layers, &self.operator)?);
            let retired = next.retired_for(&entry.layers);
            let live = |store: &StoreName, name: &SecretName| next.find(store, name);
            let session = Session::new(id.clone(), 0, policy, &self.seal_key, live, retired)
                .map_err(|clash| LoadError::Seals(id.clone(), clash))?;
            specs.push(SandboxSpec { session, sources: entry.sources.clone() });
        }
        let sandboxes = specs.len();
        self.registry.apply(specs, self.only.as_ref())?;
        *sources = next;
        let warnings =
            loaded.diagnostics.into_iter().filter(|found| found.severity == Severity::Warning);
        Ok(Report { warnings: warnings.collect(), sandboxes })
    }
}

impl Sources {
    /// The sources of a new set: unchanged ones stay, the others are retired.
    fn next(&self, set: &PolicySet, endpoints: &TokenEndpoints, tasks: &Tasks) -> Self {
        let mut next = Self::default();
        for store in set.stores() {
            for (name, secret) in &store.secrets {
                let key = (store.name.clone(), name.clone());
                let needs_header = secret.bound.needs_header();
                let unchanged = self.live.get(&key).filter(|old| {
                    old.spec == secret.source && old.live.needs_header() == needs_header
                });
                let live = unchanged.map_or_else(
                    || {
                        let source = secret.source.clone();
                        let tasks = tasks.clone();
                        LiveSecret::new(name.clone(), source, needs_header, endpoints, tasks)
                    },
                    |old| old.live.clone(),
                );
                let placeholder = secret.bound.placeholder.clone();
                let spec = secret.source.clone();
                next.live.insert(key, InForce { spec, live, placeholder });
            }
        }
        let now = Instant::now();
        let recent = |since: &Instant| now.duration_since(*since) < RETIRED_FOR;
        next.retired = self.retired.iter().filter(|(.., since)| recent(since)).cloned().collect();
        for ((store, name), old) in &self.live {
            if !next.find(store, name).is_some_and(|kept| Arc::ptr_eq(&kept, &old.live)) {
                let retired = Retired {
                    name: name.clone(),
                    live: old.live.clone(),
                    placeholder: old.placeholder.clone(),
                };
                next.retired.push((store.clone(), retired, now));
            }
        }
        next
    }

    fn find(&self, store: &StoreName, name: &SecretName) -> Option<Arc<LiveSecret>> {
        self.live.get(&(store.clone(), name.clone())).map(|found| found.live.clone())
    }

    fn retired_for(&self, layers: &[StoreName]) -> Vec<Retired> {
        let of_layers = self.retired.iter().filter(|(store, ..)| layers.contains(store));
        of_layers.map(|(_, retired, _)| retired.clone()).collect()
    }
}

/// Why nothing new is in force.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The files have errors.
    #[error("the policy files have errors:\n{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Files(Vec<Diagnostic>),
    /// A sandbox's layers do not fit together.
    #[error(transparent)]
    Layers(#[from] LayerError),
    /// The tokens of a sandbox cannot be told apart.
    #[error("sandbox `{0}`: {1}")]
    Seals(SandboxId, SealClash),
    /// The sandboxes do not fit together.
    #[error(transparent)]
    Sandboxes(#[from] RegistryError),
}
