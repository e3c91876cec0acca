//! `tollgate doctor`: looks at what Tollgate depends on and does not own, really trying it, and says how to mend what it finds.
//!
//! It changes nothing. The clients that it finds are run against an upstream of its own on loopback; one name of the policies is resolved;
//! nothing else leaves the machine.

mod authority;
mod clients;
mod finding;
mod gateway;
mod names;
mod rules;

use std::process::ExitCode;

use clap::Args;

use self::finding::{Finding, State};
use super::check::pretty;
use super::{Failure, Format, Terminal};
use crate::config::{Config, ConfigArgs};
use crate::policy::{PolicySet, Severity};

/// Look for what keeps sandboxes from working or from being contained: rules, routes, names, clock, and what clients trust.
#[derive(Debug, Args)]
#[command(
    after_help = "Run it where Tollgate runs, and as root where it is a gateway: others cannot read the firewall's rules.
Exits with 1 if there is something to mend; warnings alone are fine.

Examples:
  tollgate doctor
  tollgate doctor --config /etc/tollgate/tollgate.yaml --format json"
)]
pub(super) struct Doctor {
    #[command(flatten)]
    config: ConfigArgs,
    /// Do not try the clients on PATH.
    #[arg(long)]
    without_clients: bool,
    /// How findings are printed.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Doctor {
    pub(super) fn run(self, terminal: &mut Terminal) -> Result<ExitCode, Failure> {
        let findings = match self.config.load() {
            Ok(config) => super::runtime()?.block_on(examine(&config, !self.without_clients))?,
            Err(errors) => errors
                .iter()
                .map(|error| {
                    let mend = "mend the configuration, then look again";
                    Finding::failure("configuration", error.to_string(), mend)
                })
                .collect(),
        };
        terminal.print(&match self.format {
            Format::Human => finding::human(&findings, terminal),
            Format::Json => pretty(&findings)?,
        })?;
        let ill = findings.iter().any(|finding| finding.state == State::Failure);
        Ok(if ill { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// In the order in which one thing needs the other.
async fn examine(config: &Config, with_clients: bool) -> Result<Vec<Finding>, Failure> {
    let (set, mut findings) = policies(config);
    let ca = authority::examine(&config.ca_dir, &mut findings);
    findings.extend(names::resolver(config, set.as_ref()).await);
    findings.extend(names::responder(config).await);
    findings.extend(gateway::listeners(config).await);
    findings.extend(gateway::examine(config).await);
    if let (Some(ca), true) = (ca, with_clients) {
        findings.extend(clients::examine(config, ca).await?);
    }
    Ok(findings)
}

fn policies(config: &Config) -> (Option<PolicySet>, Vec<Finding>) {
    let loaded = PolicySet::load(&config.policies);
    let count = |severity| loaded.diagnostics.iter().filter(|one| one.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let paths: Vec<_> = config.policies.iter().map(|path| path.display().to_string()).collect();
    let command = format!("tollgate check {}", paths.join(" "));
    let finding = match &loaded.set {
        None => Finding::failure(POLICIES, format!("{errors} errors"), command),
        Some(_) if warnings > 0 => {
            Finding::warning(POLICIES, format!("they load, with {warnings} warnings"), command)
        }
        Some(set) => {
            let sandboxes = set.sandboxes().count();
            Finding::fine(POLICIES, format!("they load; {sandboxes} sandboxes"))
        }
    };
    (loaded.set, vec![finding])
}

const POLICIES: &str = "policies";
