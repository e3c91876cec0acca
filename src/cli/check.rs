//! `tollgate check`: every mistake of a set of policy files at once.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::{Failure, Terminal};
use crate::policy::{Diagnostic, Loaded, PolicySet, Severity, to_github, to_json, to_sarif};

/// Check policy files: every error and warning at once, with file, line, column and a hint.
#[derive(Debug, Args)]
#[command(
    after_help = "Exits with 1 if there is an error; warnings alone are fine.\n\nExamples:\n  tollgate check\n  tollgate check policies/quickstart.yaml\n  tollgate check --format sarif > tollgate.sarif"
)]
pub(super) struct Check {
    /// Files, or folders with *.yaml, *.yml and *.json; all together are one policy.
    #[arg(default_value = "policies")]
    paths: Vec<PathBuf>,
    /// How findings are printed.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// The formats of findings.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// With the line and a hint, for a person.
    #[default]
    Human,
    /// One JSON document.
    Json,
    /// GitHub workflow commands, shown beside changed lines.
    Github,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
}

impl Check {
    pub(super) fn run(self, terminal: &mut Terminal) -> Result<ExitCode, Failure> {
        let loaded = PolicySet::load(&self.paths);
        let text = match self.format {
            Format::Human => human(&loaded, terminal),
            Format::Json => pretty(&to_json(&loaded.diagnostics))?,
            Format::Github => to_github(&loaded.diagnostics),
            Format::Sarif => pretty(&to_sarif(&loaded.diagnostics))?,
        };
        terminal.print(&text)?;
        Ok(if loaded.set.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn human(loaded: &Loaded, terminal: &Terminal) -> String {
    let mut text = rendered(&loaded.diagnostics, terminal);
    let count =
        |severity| loaded.diagnostics.iter().filter(|found| found.severity == severity).count();
    let files = counted(loaded.files.len(), "file");
    let warnings = counted(count(Severity::Warning), "warning");
    text.push_str(&match &loaded.set {
        None => format!(
            "{} in {files}, {warnings}: {}\n",
            counted(count(Severity::Error), "error"),
            terminal.style("1;31", "nothing can be loaded")
        ),
        Some(set) => {
            let stores = counted(set.stores().count(), "secret store");
            let sandboxes = set.sandboxes().count();
            let sandboxes = if sandboxes == 1 {
                "1 sandbox".to_owned()
            } else {
                format!("{sandboxes} sandboxes")
            };
            format!(
                "{}: {files}, {stores}, {sandboxes}, {warnings}\n",
                terminal.style("1;32", "ok")
            )
        }
    });
    text
}

/// Findings with their lines, each followed by an empty line.
pub(super) fn rendered(diagnostics: &[Diagnostic], terminal: &Terminal) -> String {
    diagnostics.iter().map(|found| format!("{}\n\n", found.render(terminal.colours()))).collect()
}

/// `1 file`, `2 files`.
pub(super) fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// A JSON document and a newline.
pub(super) fn pretty(value: &impl serde::Serialize) -> Result<String, Failure> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value)?))
}
