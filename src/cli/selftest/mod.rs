//! `tollgate selftest`: every secret of every sandbox, in every place it is opted into, through the real proxy to an upstream of its own.
//!
//! The policy is the one as loaded, the values are those of the real sources (or made up), and nothing leaves this machine but what fetching
//! the values takes. It reports what arrived, masked, and whether an echo came back sealed.

mod aws;
mod grpc;
mod place;
mod plan;
mod stage;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::check::{counted, pretty, rendered};
use super::{Failure, Format, Terminal, serve};
use crate::config::{Config, Overrides};
use crate::policy::{PolicySet, Severity};
use crate::process;
use crate::secret::{SandboxId, SecretName};
use place::Place;

/// Try every secret of every sandbox, in every place it is opted into, against a built-in upstream in the bound hosts' place.
#[derive(Debug, Args)]
#[command(
    after_help = "Values are fetched from their real sources unless --fake-values is given; none is printed. A wildcard host is tried under a sample name.\nExits with 1 if anything fails.\n\nExamples:\n  tollgate selftest\n  tollgate selftest --policies policies/quickstart.yaml --fake-values\n  tollgate selftest --format json"
)]
pub(super) struct SelfTest {
    /// The server configuration; without it `tollgate.yaml` in this folder, if there is one.
    #[arg(long, env = "TOLLGATE_CONFIG", value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    /// Policy files or folders, in place of the configuration's.
    #[arg(long, env = "TOLLGATE_POLICIES", value_name = "PATH", value_delimiter = ',')]
    policies: Vec<std::path::PathBuf>,
    /// Try made-up values, and leave the real sources alone.
    #[arg(long)]
    fake_values: bool,
    /// How the results are printed.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// One place of one secret at one host, and what came of it.
#[derive(Debug, serde::Serialize)]
struct Tried {
    sandbox: SandboxId,
    secret: SecretName,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<Place>,
    result: Outcome,
    /// What the upstream received, masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    arrived: Option<String>,
    /// What became of the upstream's echo.
    #[serde(skip_serializing_if = "Option::is_none")]
    echo: Option<Echo>,
    /// Why it failed or was not tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// How a trial ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// The value arrived, and its echo did not come back.
    Ok,
    /// It did not, or it did.
    Failed,
    /// The policy leaves no way to try it.
    Skipped,
}

/// What a sandbox reads where an upstream repeats what it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
enum Echo {
    /// No value.
    Sealed,
    /// The value.
    Leaked,
    /// The value is too short to be searched for.
    NotSearched,
}

/// What all results come to.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Results {
    passed: bool,
    fake_values: bool,
    results: Vec<Tried>,
}

/// However many secrets there are.
const DEADLINE: Duration = Duration::from_secs(600);

impl SelfTest {
    pub(super) fn run(self, terminal: &mut Terminal) -> Result<ExitCode, Failure> {
        process::not_dumpable();
        let overrides = Overrides { policies: self.policies, ..Overrides::default() };
        let config = Config::load(self.config.as_deref(), &overrides)
            .map_err(|errors| serve::failure(&errors))?;
        let loaded = PolicySet::load(&config.policies);
        let Some(set) = loaded.set else {
            let mut errors = loaded.diagnostics;
            errors.retain(|found| found.severity == Severity::Error);
            terminal.note(rendered(&errors, terminal).trim_end());
            return Ok(ExitCode::FAILURE);
        };
        if set.sandboxes().next().is_none() {
            return Err("the policy files define no sandbox, so there is nothing to try".into());
        }
        let tried = async {
            tokio::time::timeout(DEADLINE, stage::try_all(&config, &set, self.fake_values)).await
        };
        let results = super::runtime()?.block_on(tried)??;
        let passed = results.iter().all(|tried| tried.result != Outcome::Failed);
        let results = Results { passed, fake_values: self.fake_values, results };
        terminal.print(&match self.format {
            Format::Human => human(&results, terminal),
            Format::Json => pretty(&results)?,
        })?;
        Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn human(results: &Results, terminal: &Terminal) -> String {
    let mut text = String::new();
    let mut last = None;
    for tried in &results.results {
        if last != Some(&tried.sandbox) {
            text += &format!("{}\n", terminal.style("1", tried.sandbox.as_str()));
            last = Some(&tried.sandbox);
        }
        text += &line(tried, terminal);
    }
    let count = |outcome| results.results.iter().filter(|tried| tried.result == outcome).count();
    let verdict = if results.passed {
        terminal.style("1;32", "ok")
    } else {
        terminal.style("1;31", "failed")
    };
    let values = if results.fake_values { ", with made-up values" } else { "" };
    text + &format!(
        "{verdict}: {} arrived and came back sealed, {} failed, {} not tried{values}\n",
        counted(count(Outcome::Ok), "place"),
        count(Outcome::Failed),
        count(Outcome::Skipped)
    )
}

fn line(tried: &Tried, terminal: &Terminal) -> String {
    let mark = match tried.result {
        Outcome::Ok => terminal.style("32", "ok  "),
        Outcome::Failed => terminal.style("1;31", "FAIL"),
        Outcome::Skipped => terminal.style("33", "skip"),
    };
    let place = tried.place.as_ref().map(ToString::to_string).unwrap_or_default();
    let host = tried.host.as_deref().unwrap_or_default();
    let mut text = format!("  {mark}  {:<20} {host:<24} {place:<34} ", tried.secret.as_str());
    let echo = tried.echo.map(|echo| match echo {
        Echo::Sealed => "echo sealed",
        Echo::Leaked => "ECHO NOT SEALED",
        Echo::NotSearched => "too short to be sealed in answers",
    });
    let arrived = tried.arrived.as_ref().map(|arrived| format!("arrived: {arrived}"));
    let said: Vec<_> =
        [arrived.as_deref(), echo, tried.detail.as_deref()].into_iter().flatten().collect();
    text += &said.join("; ");
    text.truncate(text.trim_end().len());
    text + "\n"
}
