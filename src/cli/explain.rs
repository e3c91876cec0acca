//! `tollgate explain`: the verdict on one request, and what led to it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::check::{pretty, rendered};
use super::{Failure, Format, Terminal};
use crate::policy::{
    Explanation, OperatorRules, PolicySet, RequestLine, Severity, VerdictName, explain,
};
use crate::secret::{SandboxId, StoreName};

/// Explain what would happen to a request: the verdict, the rule, the layer, the secrets by name.
#[derive(Debug, Args)]
#[command(
    after_help = "Exits with 0 whatever the verdict. Nothing is sent anywhere, and no name is resolved.\n\nExamples:\n  tollgate explain --sandbox sb-quickstart https://api.github.com/user\n  tollgate explain --layer team-base --layer payments-fork --method POST https://models.example.com/v1"
)]
pub(super) struct Explain {
    /// Policy files or folders.
    #[arg(long, default_value = "policies")]
    policies: Vec<PathBuf>,
    /// The sandbox that sends the request.
    #[arg(long, required_unless_present = "layers", conflicts_with = "layers")]
    sandbox: Option<SandboxId>,
    /// A store, base first, in place of a sandbox; repeatable.
    #[arg(long = "layer")]
    layers: Vec<StoreName>,
    /// The method.
    #[arg(long, default_value = "GET")]
    method: String,
    /// The URL, as it would be sent.
    url: String,
    /// How the explanation is printed.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Explain {
    pub(super) fn run(self, terminal: &mut Terminal) -> Result<ExitCode, Failure> {
        let request = match RequestLine::new(&self.method, &self.url) {
            Ok(request) => request,
            Err(error) => {
                terminal.note(format_args!("tollgate: {error}"));
                return Ok(ExitCode::from(2));
            }
        };
        let loaded = PolicySet::load(&self.policies);
        let Some(set) = loaded.set else {
            let errors: Vec<_> = loaded
                .diagnostics
                .into_iter()
                .filter(|found| found.severity == Severity::Error)
                .collect();
            terminal.note(rendered(&errors, terminal).trim_end());
            return Ok(ExitCode::FAILURE);
        };
        let layers = match &self.sandbox {
            None => self.layers,
            Some(id) => set.sandbox(id).ok_or_else(|| unknown(id, &set))?.layers.clone(),
        };
        let policy = Arc::new(set.effective(&layers, &OperatorRules::default())?);
        let explanation = explain(&policy, &request);
        let text = match self.format {
            Format::Human => human(&explanation, terminal),
            Format::Json => pretty(&explanation)?,
        };
        terminal.print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn unknown(id: &SandboxId, set: &PolicySet) -> String {
    let known: Vec<_> = set.sandboxes().map(|(id, _)| id.as_str()).collect();
    format!("no policy file defines the sandbox `{id}`; there are: {}", known.join(", "))
}

fn human(found: &Explanation, terminal: &Terminal) -> String {
    let verdict = match found.verdict {
        VerdictName::Allow => terminal.style("1;32", "allow"),
        VerdictName::Deny => terminal.style("1;31", "deny"),
    };
    let names = |names: &[crate::secret::SecretName]| {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    let facts = [
        ("verdict", Some(verdict)),
        ("reason", found.reason.map(|reason| reason.to_string())),
        ("detail", found.detail.clone()),
        ("hint", found.hint.clone()),
        ("rule", found.rule.clone()),
        ("layer", found.layer.clone()),
        ("secrets", names(&found.secrets)),
        ("injected", names(&found.injected)),
        ("signing", names(&found.signing)),
        ("policy", Some(found.policy_digest.clone())),
    ];
    let notes = found.notes.iter().map(|note| ("note", Some(note.clone())));
    let lines = facts
        .into_iter()
        .chain(notes)
        .filter_map(|(name, fact)| Some(format!("{name:<9}{}\n", fact?)));
    lines.collect()
}
