//! `tollgate allowed-hosts`: the introspection answer, from the policy files alone.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::check::{pretty, rendered};
use super::{Failure, Format, Terminal, serve};
use crate::config::ConfigArgs;
use crate::introspect::{AllowedHosts, Provenance};
use crate::policy::{Allowlist, EffectivePolicy, PolicySet, Severity};
use crate::secret::SandboxId;

/// Print what a sandbox may reach, and where each of its secrets may go. Asks no server.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tollgate allowed-hosts sb-quickstart
  tollgate allowed-hosts --policies policies/base-and-fork.yaml --format json --provenance sb-payments")]
pub(super) struct AllowedHostsArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The sandbox.
    #[arg(value_name = "SANDBOX")]
    id: SandboxId,
    /// How to print it; JSON is the API's own answer.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Also by which rule of which layer.
    #[arg(long)]
    provenance: bool,
}

impl AllowedHostsArgs {
    pub(super) fn run(self, terminal: &mut Terminal) -> Result<ExitCode, Failure> {
        let config = self.config.load().map_err(|errors| serve::failure(&errors))?;
        let loaded = PolicySet::load(&config.policies);
        let Some(set) = loaded.set else {
            let mut errors = loaded.diagnostics;
            errors.retain(|found| found.severity == Severity::Error);
            terminal.note(rendered(&errors, terminal).trim_end());
            return Ok(ExitCode::FAILURE);
        };
        let Some(entry) = set.sandbox(&self.id) else {
            let known: Vec<_> = set.sandboxes().map(|(id, _)| id.as_str()).collect();
            let (id, known) = (&self.id, known.join(", "));
            return Err(
                format!("no policy file defines the sandbox `{id}`; there are: {known}").into()
            );
        };
        let policy = Arc::new(set.effective(&entry.layers, &config.operator_rules())?);
        let text = match (self.format, self.provenance) {
            (Format::Json, true) => pretty(&Provenance::of(&self.id, &policy))?,
            (Format::Json, false) => pretty(&AllowedHosts::of(&self.id, &policy))?,
            (Format::Human, provenance) => self.human(&policy, provenance, terminal),
        };
        terminal.print(&text)?;
        Ok(ExitCode::SUCCESS)
    }

    fn human(&self, policy: &EffectivePolicy, provenance: bool, terminal: &Terminal) -> String {
        let layers: Vec<_> = policy.layers().iter().map(ToString::to_string).collect();
        let mut text =
            format!("{} ({})\n", terminal.style("1", self.id.as_str()), layers.join(" + "));
        text += match policy.allowlist() {
            Allowlist::Unrestricted => "may reach every public host\n",
            Allowlist::Only(_) => "may reach\n",
            Allowlist::Nothing => "may reach nothing\n",
        };
        if provenance {
            for rule in policy.allow_rules() {
                let name = &rule.name;
                text += &format!("  {}  from {}: {}\n", rule.pattern, name.layer(), name.text());
            }
            for (host, name) in policy.deny_rules() {
                text += &format!("  never {host}  from {}: {}\n", name.layer(), name.text());
            }
        } else {
            for host in AllowedHosts::of(&self.id, policy).egress_allowlist {
                text += &format!("  {host}\n");
            }
        }
        for secret in policy.secrets() {
            let hosts: Vec<_> = secret.hosts.iter().map(ToString::to_string).collect();
            let name = terminal.style("1", secret.name.as_str());
            text += &format!("{name} goes to {}\n", hosts.join(", "));
        }
        text
    }
}
