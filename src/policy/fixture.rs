//! Fixtures: requests with the verdicts that a policy is meant to give, kept beside it and run by `tollgate test`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::compile::PolicySet;
use super::diagnostic::{At, Diagnostic, Findings};
use super::effective::OperatorRules;
use super::explain::{Explanation, RequestLine, VerdictName, explain};
use super::file::fields::{Fields, Grammar, items, list, parsed, text};
use super::read::{self, Wanted};
use super::verdict::DenyReason;
use super::yaml::{self, Node, shown};
use crate::secret::{SandboxId, SecretName, StoreName};

/// What the fixtures below some paths came to.
#[derive(Debug)]
pub struct FixtureReport {
    /// Findings in fixtures and in the policies that they name.
    pub diagnostics: Vec<Diagnostic>,
    /// Every case that could be run, in order.
    pub cases: Vec<CaseResult>,
}

impl FixtureReport {
    /// Whether there was a case, every case holds, and nothing is wrong with a file.
    #[must_use]
    pub fn passed(&self) -> bool {
        let fine = |diagnostic: &Diagnostic| diagnostic.severity != super::Severity::Error;
        !self.cases.is_empty()
            && self.cases.iter().all(|case| case.failures.is_empty())
            && self.diagnostics.iter().all(fine)
    }
}

/// One case that was run.
#[derive(Debug, serde::Serialize)]
pub struct CaseResult {
    /// The fixture.
    pub file: String,
    /// Where the case starts in it, from 1.
    pub line: usize,
    /// Its name, or else its request.
    pub name: String,
    /// In what the verdict differs from what is expected; empty if the case holds.
    pub failures: Vec<String>,
    /// The verdict; none if the sandbox or its layers cannot be united.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
}

/// Runs the fixtures below the paths (`*.test.yaml`, `*.test.yml`, `*.test.json`).
#[must_use]
pub fn run_fixtures(paths: &[PathBuf]) -> FixtureReport {
    let mut findings = Findings::default();
    let mut cases = Vec::new();
    let mut policy_findings: Vec<Diagnostic> = Vec::new();
    for path in read::find(paths, Wanted::Fixtures, &mut findings) {
        let Some(fixture) = read_fixture(&path, &mut findings) else { continue };
        let loaded = PolicySet::load(&fixture.policies);
        policy_findings.extend(
            loaded.diagnostics.into_iter().filter(|found| found.severity == super::Severity::Error),
        );
        if let Some(set) = &loaded.set {
            cases.extend(fixture.cases.iter().map(|case| case.run(&path, set)));
        }
    }
    let mut diagnostics = findings.sorted();
    diagnostics.extend(policy_findings);
    diagnostics.sort();
    diagnostics.dedup();
    FixtureReport { diagnostics, cases }
}

struct Fixture {
    policies: Vec<PathBuf>,
    cases: Vec<Case>,
}

struct Case {
    name: String,
    line: usize,
    subject: Subject,
    request: RequestLine,
    expect: Expect,
}

/// Whose policy decides.
enum Subject {
    Sandbox(SandboxId),
    Layers(Vec<StoreName>),
}

struct Expect {
    verdict: VerdictName,
    reason: Option<DenyReason>,
    secrets: Option<Vec<SecretName>>,
    rule: Option<String>,
}

const FIXTURE: Grammar = Grammar { what: "a fixture", known: &["policies", "cases"], later: &[] };
const CASE: Grammar = Grammar {
    what: "a case",
    known: &["name", "sandbox", "layers", "request", "expect"],
    later: &[],
};
const EXPECT: Grammar =
    Grammar { what: "`expect`", known: &["verdict", "reason", "secrets", "rule"], later: &[] };

fn read_fixture(path: &Path, out: &mut Findings) -> Option<Fixture> {
    let source = read::read(path, out)?;
    let root = yaml::read(&source, out)?;
    let fields = Fields::read(&root, &FIXTURE, out)?;
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    let policies = fields.get("policies").map_or_else(
        || vec![folder.to_path_buf()],
        |node| {
            let nodes = list(
                node,
                "`policies`",
                "leave the field out, and the fixture's own folder is taken",
                out,
            );
            let path =
                |node: &Node, out: &mut Findings| text(node, "a path", out).map(str::to_owned);
            items(nodes.unwrap_or_default(), out, path)
                .into_iter()
                .map(|path| folder.join(path.value))
                .collect()
        },
    );
    let cases = fields.required(
        "cases",
        "cases: [{ sandbox: sb-dev, request: GET https://a.example/, expect: { verdict: allow } }]",
        out,
    )?;
    let cases = list(cases, "`cases`", "write at least one case", out)?;
    let cases = cases.iter().filter_map(|node| case(node, out)).collect();
    Some(Fixture { policies, cases })
}

fn case(node: &Node, out: &mut Findings) -> Option<Case> {
    let fields = Fields::read(node, &CASE, out)?;
    let subject = subject(&fields, out);
    let request: Option<At<RequestLine>> = fields
        .required("request", "request: GET https://api.example.com/v1", out)
        .and_then(|node| parsed(node, "a request", "bad-request", out));
    let expect = fields
        .required("expect", "expect: { verdict: allow }", out)
        .and_then(|node| expect(node, out));
    let written = fields.get("name").or_else(|| fields.get("request"));
    let name = written.and_then(|node| text(node, "a name", out)).unwrap_or_default().to_owned();
    Some(Case {
        name,
        line: node.place.span.line,
        subject: subject?,
        request: request?.value,
        expect: expect?,
    })
}

fn subject(fields: &Fields<'_>, out: &mut Findings) -> Option<Subject> {
    match (fields.get("sandbox"), fields.get("layers")) {
        (Some(node), None) => {
            Some(Subject::Sandbox(parsed(node, "the id of a sandbox", "bad-name", out)?.value))
        }
        (None, Some(node)) => {
            let nodes = list(node, "`layers`", "name the stores, base first", out)?;
            let layers = items(nodes, out, |node, out| {
                Some(parsed(node, "the name of a store", "bad-name", out)?.value)
            });
            Some(Subject::Layers(layers.into_iter().map(|layer| layer.value).collect()))
        }
        (None, None) if fields.has_strangers() => None,
        _ => {
            out.push(
                Diagnostic::error(
                    "missing-field",
                    fields.place,
                    "a case names either `sandbox` or `layers`",
                )
                .hint("sandbox: sb-dev, or layers: [base, fork]"),
            );
            None
        }
    }
}

fn expect(node: &Node, out: &mut Findings) -> Option<Expect> {
    let fields = Fields::read(node, &EXPECT, out)?;
    let verdict =
        fields.required("verdict", "verdict: allow, or verdict: deny", out).and_then(|node| {
            one_of(
                node,
                "a verdict",
                &[VerdictName::Allow, VerdictName::Deny],
                |verdict| verdict.as_str(),
                out,
            )
        });
    let reason = fields
        .get("reason")
        .and_then(|node| one_of(node, "a reason", DenyReason::ALL, |reason| reason.as_str(), out));
    let secrets = fields.get("secrets").and_then(|node| {
        let yaml::Kind::List(nodes) = &node.kind else {
            list(node, "`secrets`", "", out);
            return None;
        };
        let names = items(nodes, out, |node, out| {
            Some(parsed(node, "the name of a secret", "bad-name", out)?.value)
        });
        let mut names: Vec<SecretName> = names.into_iter().map(|name| name.value).collect();
        names.sort();
        Some(names)
    });
    let rule = fields.get("rule").and_then(|node| text(node, "a rule", out)).map(str::to_owned);
    let verdict = verdict?;
    if verdict == VerdictName::Allow && fields.get("reason").is_some() {
        out.push(
            Diagnostic::error(
                "bad-expectation",
                fields.key_place("reason"),
                "only a denial has a reason",
            )
            .hint("verdict: deny"),
        );
    }
    Some(Expect { verdict, reason, secrets, rule })
}

/// One of a few words.
fn one_of<T: Copy>(
    node: &Node,
    what: &str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
    out: &mut Findings,
) -> Option<T> {
    let written = text(node, what, out)?;
    let found = all.iter().copied().find(|word| name(*word) == written);
    if found.is_none() {
        let names: Vec<&str> = all.iter().map(|word| name(*word)).collect();
        let hint = match super::file::fields::nearest(written, &names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("one of {}", names.join(", ")),
        };
        out.push(
            Diagnostic::error(
                "bad-expectation",
                &node.place,
                format!("`{}` is not {what}", shown(written)),
            )
            .hint(hint),
        );
    }
    found
}

impl Case {
    fn run(&self, file: &Path, set: &PolicySet) -> CaseResult {
        let (failures, explanation) = match self.decide(set) {
            Ok(explanation) => (self.expect.failures(&explanation), Some(explanation)),
            Err(failure) => (vec![failure], None),
        };
        CaseResult {
            file: file.display().to_string(),
            line: self.line,
            name: self.name.clone(),
            failures,
            explanation,
        }
    }

    fn decide(&self, set: &PolicySet) -> Result<Explanation, String> {
        let layers = match &self.subject {
            Subject::Layers(layers) => layers,
            Subject::Sandbox(id) => {
                &set.sandbox(id)
                    .ok_or_else(|| format!("no policy file defines the sandbox `{id}`"))?
                    .layers
            }
        };
        let policy =
            set.effective(layers, &OperatorRules::default()).map_err(|error| error.to_string())?;
        Ok(explain(&Arc::new(policy), &self.request))
    }
}

impl Expect {
    /// In what an explanation differs.
    fn failures(&self, found: &Explanation) -> Vec<String> {
        let mut failures = Vec::new();
        if self.verdict != found.verdict {
            let why = found.detail.as_ref().map_or(String::new(), |detail| format!(": {detail}"));
            failures.push(format!(
                "expected {}, and the verdict is {}{why}",
                self.verdict.as_str(),
                found.verdict.as_str()
            ));
        }
        if let (Some(expected), Some(reason)) = (self.reason, found.reason)
            && expected != reason
        {
            failures.push(format!("expected the reason {expected}, and it is {reason}"));
        }
        if let Some(expected) = &self.secrets
            && *expected != found.secrets
        {
            failures.push(format!(
                "expected the secrets {expected:?}, and they are {:?}",
                found.secrets
            ));
        }
        let rule = found.rule.as_deref().unwrap_or("none");
        let full = format!("{}: {rule}", found.layer.as_deref().unwrap_or_default());
        if let Some(expected) = &self.rule
            && *expected != rule
            && *expected != full
        {
            failures.push(format!("expected the rule `{expected}`, and it is `{full}`"));
        }
        failures
    }
}
