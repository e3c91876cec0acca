//! Where all credentials come from that a command must not find: the stores' and Tollgate's own.

use std::path::PathBuf;

use crate::config::Config;
use crate::policy::PolicySet;
use crate::secret::{SecretName, SourceSpec};

/// Each source, and the secret that is read from it; none for Tollgate's own: the seal key, operators' keys, and what an upstream proxy asks
/// for.
pub(super) fn of<'a>(
    config: &'a Config,
    set: &'a PolicySet,
) -> impl Iterator<Item = (Option<&'a SecretName>, &'a SourceSpec)> {
    let secrets = set.stores().flat_map(|store| &store.secrets);
    let proxy = config.upstream.proxy.as_ref().and_then(|proxy| proxy.credentials.as_ref());
    let own = config.seal_key.iter().chain(&config.api_keys).chain(proxy);
    secrets.map(|(name, secret)| (Some(name), &secret.source)).chain(own.map(|own| (None, own)))
}

/// The files that hold credentials, as they are named: Tollgate reads them again when they change.
pub(super) fn files(config: &Config, set: &PolicySet) -> Vec<PathBuf> {
    let files = of(config, set).flat_map(|(_, source)| source.files());
    files.filter_map(|file| std::path::absolute(file).ok()).collect()
}
