//! What the doctor found: one line each, with what mends it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cli::Terminal;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Fine,
    /// It may be wanted, or could not be looked at.
    Warning,
    /// Sandboxes will not work, or are not contained.
    Failure,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    /// What it belongs to, such as `rules`.
    pub(super) area: &'static str,
    pub(super) state: State,
    pub(super) what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mend: Option<String>,
}

impl Finding {
    pub(super) fn fine(area: &'static str, what: impl Into<String>) -> Self {
        Self { area, state: State::Fine, what: what.into(), mend: None }
    }

    pub(super) fn warning(
        area: &'static str,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { area, state: State::Warning, what: what.into(), mend: Some(mend.into()) }
    }

    pub(super) fn failure(
        area: &'static str,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { area, state: State::Failure, what: what.into(), mend: Some(mend.into()) }
    }
}

/// For a person: by area, the mending below what needs it.
pub(super) fn human(findings: &[Finding], terminal: &Terminal) -> String {
    let mut text = String::new();
    let mut area = "";
    for finding in findings {
        if finding.area != area {
            area = finding.area;
            text += &format!("{}\n", terminal.style("1", area));
        }
        let mark = match finding.state {
            State::Fine => terminal.style("32", "ok  "),
            State::Warning => terminal.style("33", "warn"),
            State::Failure => terminal.style("1;31", "FAIL"),
        };
        text += &format!("  {mark} {}\n", finding.what);
        for line in finding.mend.iter().flat_map(|mend| mend.lines()) {
            text += &format!("       → {line}\n");
        }
    }
    let mut counts: BTreeMap<State, usize> = BTreeMap::new();
    for finding in findings {
        *counts.entry(finding.state).or_default() += 1;
    }
    let count = |state| counts.get(&state).copied().unwrap_or_default();
    let (fine, warnings, failures) =
        (count(State::Fine), count(State::Warning), count(State::Failure));
    text + &format!("{fine} fine, {warnings} to look at, {failures} to mend\n")
}
