//! What policy files promise: every mistake found at its place, layers that never widen, a decision that equals a slow reference.

mod diagnostics;
mod layers;
mod presets;
mod reference;
mod schema;
mod shipped;

use std::path::Path;

use super::*;

/// What a load of one text finds, each as `severity code line:column`.
fn findings(text: &str) -> Vec<String> {
    let loaded = PolicySet::read(Path::new("p.yaml"), text);
    let has_error = loaded.diagnostics.iter().any(|d| d.severity == Severity::Error);
    assert_eq!(loaded.set.is_none(), has_error, "{:?}", loaded.diagnostics);
    let short =
        |d: &Diagnostic| format!("{} {} {}:{}", d.severity.as_str(), d.code, d.line, d.column);
    loaded.diagnostics.iter().map(short).collect()
}

/// The set of one text, which has no error.
fn set(text: &str) -> PolicySet {
    let loaded = PolicySet::read(Path::new("p.yaml"), text);
    loaded.set.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics))
}
