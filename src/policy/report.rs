//! Diagnostics for machines: JSON, GitHub's workflow commands, SARIF 2.1.0.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::diagnostic::{Diagnostic, Severity};

/// One JSON document with every finding.
#[must_use]
pub fn to_json(diagnostics: &[Diagnostic]) -> Value {
    let count = |severity| diagnostics.iter().filter(|found| found.severity == severity).count();
    json!({
        "errors": count(Severity::Error),
        "warnings": count(Severity::Warning),
        "diagnostics": diagnostics,
    })
}

/// One workflow command a line, which GitHub shows beside the changed lines.
#[must_use]
pub fn to_github(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().fold(String::new(), |mut text, found| {
        let Diagnostic { file, line, column, end_column, code, .. } = found;
        let hint = found.hint.as_ref().map_or(String::new(), |hint| format!(" ({hint})"));
        let message = escape_data(&format!("{}{hint}", found.message));
        let severity = found.severity.as_str();
        let file = escape_property(file);
        writeln!(text, "::{severity} file={file},line={line},endLine={line},col={column},endColumn={end_column},title={code}::{message}").unwrap_or_default();
        text
    })
}

/// What stands behind `::` of a workflow command.
fn escape_data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// A property of a workflow command.
fn escape_property(text: &str) -> String {
    escape_data(text).replace(':', "%3A").replace(',', "%2C")
}

/// A SARIF 2.1.0 log with one run.
#[must_use]
pub fn to_sarif(diagnostics: &[Diagnostic]) -> Value {
    let codes: std::collections::BTreeSet<&str> =
        diagnostics.iter().map(|found| found.code).collect();
    let rules: Vec<Value> = codes.iter().map(|code| json!({ "id": code })).collect();
    let results: Vec<Value> = diagnostics.iter().map(sarif_result).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "tollgate", "version": env!("CARGO_PKG_VERSION"), "rules": rules } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn sarif_result(found: &Diagnostic) -> Value {
    let text = match &found.hint {
        Some(hint) => format!("{}\n{hint}", found.message),
        None => found.message.clone(),
    };
    let region = json!({ "startLine": found.line, "startColumn": found.column, "endColumn": found.end_column });
    let related: Vec<Value> = found
        .related
        .iter()
        .map(|place| {
            json!({
                "message": { "text": place.message },
                "physicalLocation": physical(&place.file, &json!({ "startLine": place.line, "startColumn": place.column })),
            })
        })
        .collect();
    json!({
        "ruleId": found.code,
        "level": found.severity.as_str(),
        "message": { "text": text },
        "locations": [{ "physicalLocation": physical(&found.file, &region) }],
        "relatedLocations": related,
    })
}

fn physical(file: &str, region: &Value) -> Value {
    let path = percent_encoding::utf8_percent_encode(file, PATH).to_string();
    json!({ "artifactLocation": { "uri": path }, "region": region })
}

/// What a URI's path does not hold as it is (RFC 3986 §3.3).
const PATH: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b':');

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::PolicySet;

    fn found() -> Vec<Diagnostic> {
        PolicySet::read(
            Path::new("my policies/a,b.yaml"),
            "sandboxes: { a: { secretStores: [x], sources: [1.2.3] } }",
        )
        .diagnostics
    }

    #[test]
    fn github_commands_are_one_line_each_and_escaped() {
        let text = to_github(&found());
        assert_eq!(text.lines().count(), 2);
        assert!(
            text.starts_with("::error file=my policies/a%2Cb.yaml,line=1,endLine=1,col="),
            "{text}"
        );
    }

    #[test]
    fn sarif_names_rule_place_and_level() {
        let log = to_sarif(&found());
        let first = &log["runs"][0]["results"][0];
        assert_eq!(first["level"], "error");
        assert_eq!(
            first["locations"][0]["physicalLocation"]["artifactLocation"]["uri"],
            "my%20policies/a,b.yaml"
        );
        assert_eq!(log["runs"][0]["tool"]["driver"]["rules"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn json_counts_errors_and_warnings() {
        assert_eq!(to_json(&found())["errors"], 2);
        assert_eq!(to_json(&found())["diagnostics"][0]["severity"], "error");
    }
}
