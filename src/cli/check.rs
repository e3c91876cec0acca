//! `tollgate check`: every mistake of a set of policy files at once.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::{Failure, Terminal};
use crate::policy::{
    Diagnostic, Loaded, PolicySet, SecretPreset, Severity, presets, to_github, to_json, to_sarif,
};

/// Check policy files: every error and warning at once, with file, line, column and a hint.
#[derive(Debug, Args)]
#[command(
    after_help = "Exits with 1 if there is an error; warnings alone are fine.\n\nExamples:\n  tollgate check\n  tollgate check policies/quickstart.yaml\n  tollgate check --presets\n  tollgate check --format sarif > tollgate.sarif"
)]
pub(super) struct Check {
    /// Files, or folders with *.yaml, *.yml and *.json; all together are one policy.
    #[arg(default_value = "policies")]
    paths: Vec<PathBuf>,
    /// List the presets for `preset:` in place of checking anything: name, variable, shape, headers, hosts.
    #[arg(long, conflicts_with = "paths")]
    presets: bool,
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
        if self.presets {
            terminal.print(&listed_presets(self.format)?)?;
            return Ok(ExitCode::SUCCESS);
        }
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

/// All presets; for anything but a person, as JSON.
fn listed_presets(format: Format) -> Result<String, Failure> {
    let shape = |preset: &SecretPreset| preset.placeholder.as_ref().map(ToString::to_string);
    let headers = |preset: &SecretPreset| match preset.headers().as_slice() {
        _ if preset.signs => "none: it signs (aws-sigv4)".to_owned(),
        [] => "all but those that servers like to echo".to_owned(),
        names => names.join(", "),
    };
    let texts = |hosts: &mut dyn Iterator<Item = &crate::host::HostPattern>| {
        hosts.map(ToString::to_string).collect::<Vec<_>>()
    };
    if matches!(format, Format::Human) {
        let line = |preset: &SecretPreset| {
            format!(
                "{}\n  secret  {}\n  shape   {}\n  headers {}\n  hosts   {}\n  opens   {}\n",
                preset.name,
                preset.variable,
                shape(preset).unwrap_or_default(),
                headers(preset),
                texts(&mut preset.hosts.iter()).join(", "),
                texts(&mut preset.opens()).join(", "),
            )
        };
        return Ok(presets().map(line).collect());
    }
    let document = |preset: &SecretPreset| {
        serde_json::json!({
            "preset": preset.name,
            "secret": preset.variable.as_str(),
            "placeholder": shape(preset),
            "headers": preset.headers(),
            "signs": preset.signs,
            "allowedHosts": texts(&mut preset.hosts.iter()),
            "egressAllowlist": texts(&mut preset.opens()),
        })
    };
    pretty(&presets().map(document).collect::<Vec<_>>())
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
