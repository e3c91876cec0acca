//! `tollgate test`: fixtures against their policies.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::check::{counted, pretty, rendered};
use super::{Failure, Terminal};
use crate::policy::{CaseResult, FixtureReport, run_fixtures};

/// Run fixtures (*.test.yaml): requests with the verdicts that the policies are meant to give.
#[derive(Debug, Args)]
#[command(
    after_help = "Exits with 1 if a case fails, a file has an error, or there is no case. Nothing is sent anywhere.\n\nExamples:\n  tollgate test\n  tollgate test policies/quickstart.test.yaml\n  tollgate test --format junit > report.xml"
)]
pub(super) struct Test {
    /// Fixtures, or folders with *.test.yaml, *.test.yml and *.test.json.
    #[arg(default_value = "policies")]
    paths: Vec<PathBuf>,
    /// How results are printed.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// The formats of results.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// One line a case, for a person.
    #[default]
    Human,
    /// One JSON document.
    Json,
    /// JUnit XML, which most CI services show.
    Junit,
}

impl Test {
    pub(super) fn run(self, terminal: &mut Terminal) -> Result<ExitCode, Failure> {
        let report = run_fixtures(&self.paths);
        let text = match self.format {
            Format::Human => human(&report, terminal),
            Format::Json => pretty(&serde_json::json!({
                "passed": report.passed(),
                "cases": report.cases,
                "diagnostics": report.diagnostics,
            }))?,
            Format::Junit => junit(&report),
        };
        terminal.print(&text)?;
        Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn human(report: &FixtureReport, terminal: &Terminal) -> String {
    let mut text = rendered(&report.diagnostics, terminal);
    for case in &report.cases {
        let CaseResult { file, line, name, .. } = case;
        let mark = if case.failures.is_empty() {
            terminal.style("32", "ok  ")
        } else {
            terminal.style("1;31", "FAIL")
        };
        text.push_str(&format!("{mark} {file}:{line}: {}\n", plain(name)));
        for failure in &case.failures {
            text.push_str(&format!("       {failure}\n"));
        }
    }
    let failed = report.cases.iter().filter(|case| !case.failures.is_empty()).count();
    let passed = report.cases.len() - failed;
    text.push_str(&format!("{} passed, {failed} failed\n", counted(passed, "case")));
    text
}

/// A name without control characters.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).collect()
}

fn junit(report: &FixtureReport) -> String {
    let failed = report.cases.iter().filter(|case| !case.failures.is_empty()).count();
    let errors: Vec<_> = report
        .diagnostics
        .iter()
        .filter(|found| found.severity == crate::policy::Severity::Error)
        .collect();
    let tests = report.cases.len() + errors.len();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites tests=\"{tests}\" failures=\"{failed}\" errors=\"{}\">\n<testsuite name=\"tollgate\" tests=\"{tests}\" failures=\"{failed}\" errors=\"{}\">\n",
        errors.len(),
        errors.len()
    );
    for found in errors {
        xml.push_str(&format!(
            "<testcase classname=\"{}\" name=\"load\"><error message=\"{}\"/></testcase>\n",
            escaped(&found.file),
            escaped(&found.to_string())
        ));
    }
    for case in &report.cases {
        let failures: String = case
            .failures
            .iter()
            .map(|failure| format!("<failure message=\"{}\"/>", escaped(failure)))
            .collect();
        xml.push_str(&format!(
            "<testcase classname=\"{}\" name=\"{}\" line=\"{}\">{failures}</testcase>\n",
            escaped(&case.file),
            escaped(&case.name),
            case.line
        ));
    }
    xml.push_str("</testsuite>\n</testsuites>\n");
    xml
}

/// Text of an XML attribute.
fn escaped(text: &str) -> String {
    plain(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
