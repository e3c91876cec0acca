//! The policies that are shipped: they load without a finding, keep their fixtures, and refuse an unknown key at every level.

use std::path::PathBuf;
use std::sync::Arc;

use super::super::diagnostic::{Findings, Source};
use super::super::yaml::{self, Kind, Node};
use super::*;

pub(super) fn files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let all = [root.clone(), root.join("presets")]
        .into_iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let mut files: Vec<_> =
        all.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

fn is_fixture(path: &Path) -> bool {
    path.to_str().unwrap().ends_with(".test.yaml")
}

/// AWS has too many hosts to name; its preset says so itself.
fn unexpected(found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let of_aws = |one: &Diagnostic| {
        one.file.ends_with("aws.yaml") && ["public-suffix", "wildcard-grant"].contains(&one.code)
    };
    found.into_iter().filter(|one| !of_aws(one)).collect()
}

#[test]
fn shipped_policies_load_together_without_a_finding() {
    let loaded = PolicySet::load(&[Path::new(env!("CARGO_MANIFEST_DIR")).join("policies")]);
    assert_eq!(unexpected(loaded.diagnostics), []);
    assert_eq!(loaded.files.len(), files().iter().filter(|path| !is_fixture(path)).count());
}

#[test]
fn shipped_policies_load_alone_and_each_has_a_fixture_that_holds() {
    for path in files().iter().filter(|path| !is_fixture(path)) {
        assert_eq!(
            unexpected(PolicySet::load(std::slice::from_ref(path)).diagnostics),
            [],
            "{}",
            path.display()
        );
        let report = run_fixtures(&[path.with_extension("test.yaml")]);
        let failed: Vec<_> = report.cases.iter().filter(|case| !case.failures.is_empty()).collect();
        assert!(report.passed() && failed.is_empty(), "{failed:?} {:?}", report.diagnostics);
    }
}

#[test]
fn an_unknown_key_at_any_level_of_any_file_is_refused_with_its_place() {
    let mut planted = 0;
    for path in files() {
        let text = std::fs::read_to_string(&path).unwrap();
        let root =
            yaml::read(&Arc::new(Source::new("p.yaml", text.clone())), &mut Findings::default())
                .unwrap();
        let mut places = Vec::new();
        mappings(&root, &mut Vec::new(), &mut places);
        for place in places {
            let (line, column, broken) = plant(&text, &place);
            let found = load(&path, &broken);
            let refused = found
                .iter()
                .any(|d| d.severity == Severity::Error && (d.line, d.column) == (line, column));
            assert!(
                refused,
                "{} accepted an unknown key at {line}:{column}: {found:?}\n{broken}",
                path.display()
            );
            planted += 1;
        }
    }
    assert!(planted > 100, "{planted}");
}

fn load(path: &Path, text: &str) -> Vec<Diagnostic> {
    if !is_fixture(path) {
        return PolicySet::read(path, text).diagnostics;
    }
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("x.test.yaml");
    std::fs::write(&copy, text).unwrap();
    run_fixtures(&[copy]).diagnostics
}

/// The first key of every mapping that has fields of its own, not names.
fn mappings(node: &Node, path: &mut Vec<String>, places: &mut Vec<(usize, usize)>) {
    match &node.kind {
        Kind::Scalar { .. } | Kind::Unreadable => {}
        Kind::List(items) => items.iter().for_each(|item| mappings(item, path, places)),
        Kind::Map(entries) => {
            let names = matches!(
                path.last().map(String::as_str),
                Some("secretStores" | "sandboxes" | "secrets")
            );
            if let (false, Some(first)) = (names, entries.first()) {
                places.push((first.key.place.span.line, first.key.place.span.column));
            }
            for entry in entries {
                path.push(if names { "a name".to_owned() } else { entry.key.value.clone() });
                mappings(&entry.value, path, places);
                path.pop();
            }
        }
    }
}

/// Writes `surprise: 1` in front of the key at a place, in the style of its mapping.
fn plant(text: &str, &(line, column): &(usize, usize)) -> (usize, usize, String) {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let target = &mut lines[line - 1];
    let (before, after) = target.split_at(column - 1);
    let planted = if before.contains('{') {
        format!("{before}surprise: x, {after}")
    } else {
        let indent = " ".repeat(column - 1);
        format!("{before}surprise: x\n{indent}{after}")
    };
    *target = planted;
    (line, column, lines.join("\n"))
}
