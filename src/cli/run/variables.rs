//! The command's variables: the caller's without any credential, and what `tollgate env` prints.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use super::sources;
use crate::config::Config;
use crate::environment::Environment;
use crate::policy::PolicySet;
use crate::secret::{SecretName, SourceSpec};
use crate::session::Session;

/// The variables that hold credentials or lead to them.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    /// Name of the variable, and the secret that is read from it, or nothing for a credential of Tollgate's own.
    sources: Vec<(String, String)>,
}

impl Hidden {
    pub(super) fn of(config: &Config, set: &PolicySet) -> Self {
        let variables = |(secret, source): (Option<&SecretName>, &SourceSpec)| {
            let secret = secret.map(ToString::to_string).unwrap_or_default();
            let variables = source.variables().into_iter();
            variables.map(|name| (name.to_owned(), secret.clone())).collect::<Vec<_>>()
        };
        Self { sources: sources::of(config, set).flat_map(variables).collect() }
    }
}

/// What the command gets: the caller's variables without any credential, then ours; and what a person should know about it.
pub(super) fn child_environment(
    callers: impl IntoIterator<Item = (OsString, OsString)>,
    ours: &Environment,
    session: &Session,
    hidden: &Hidden,
) -> (BTreeMap<OsString, OsString>, Vec<String>) {
    let mut notes = Vec::new();
    let callers: BTreeMap<OsString, OsString> = callers.into_iter().collect();
    let is_secret =
        |name: &OsStr| session.secrets().iter().any(|secret| name == secret.bound.name.as_str());
    let token =
        |secret: &str| ours.iter().find(|(name, _)| *name == secret).map(|(_, token)| token);
    let mut variables = BTreeMap::new();
    for (name, value) in &callers {
        let is_source = hidden.sources.iter().any(|(variable, _)| name == variable.as_str());
        if is_source || is_secret(name) || name.as_encoded_bytes().starts_with(b"TOLLGATE_") {
            continue;
        }
        // The same credential under another name would be as good as the one that was taken away.
        let same = |(variable, _): &&(String, String)| {
            !value.is_empty() && callers.get(OsStr::new(variable)) == Some(value)
        };
        if let Some((variable, secret)) = hidden.sources.iter().find(same) {
            let shown = name.to_string_lossy().into_owned();
            notes.push(format!("{shown:?} holds the same value as {variable}: sealed too"));
            if let Some(token) = token(secret).filter(|_| is_secret(OsStr::new(secret))) {
                variables.insert(name.clone(), token.into());
            }
            continue;
        }
        variables.insert(name.clone(), value.clone());
    }
    let mut kept = Vec::new();
    for (name, value) in ours.iter() {
        let name = OsString::from(name);
        let callers_own = variables.get(&name).filter(|own| !own.is_empty() && **own != *value);
        if callers_own.is_some() {
            kept.push(name.to_string_lossy().into_owned());
        } else {
            variables.insert(name, value.into());
        }
    }
    if !kept.is_empty() {
        notes.push(format!(
            "left as you have set them, so their clients may go past the proxy or distrust it: {}",
            kept.join(" ")
        ));
    }
    (variables, notes)
}
