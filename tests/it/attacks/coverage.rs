//! Which test holds which case: `COVERAGE.md` is made from the tests' own names, and a test fails when it is out of date.
//!
//! A case without a test, or with one for some of its variants only, has a comment line of the form "not yet", colon, id, reason in some
//! module, or belongs to an area whose part of the product is not there. `TOLLGATE_BLESS=1 cargo test coverage_is_current` writes the file anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Areas whose part of the product is not there, for cases that say nothing of their own.
const LATER: [(&str, &str); 1] = [("control-plane", "comes with the control plane")];

/// What is said of a case that is nowhere.
const NOWHERE: &str = "no test of its own";

struct Case {
    id: String,
    area: String,
}

#[test]
fn coverage_is_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/attacks");
    let rendered = render(&cases(&folder), &Sources::read(&folder));
    let file = folder.join("COVERAGE.md");
    if std::env::var_os("TOLLGATE_BLESS").is_some() {
        std::fs::write(&file, &rendered).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(committed == rendered, "COVERAGE.md is out of date: run with TOLLGATE_BLESS=1");
}

fn cases(folder: &Path) -> Vec<Case> {
    let text = std::fs::read_to_string(folder.join("ids.txt")).unwrap();
    let case = |line: &str| {
        let (id, area) = line.split_once(' ').unwrap();
        Case { id: id.to_owned(), area: area.to_owned() }
    };
    text.lines().map(case).collect()
}

/// What the test sources say.
struct Sources {
    /// `module::test`, by file and then by place.
    tests: Vec<String>,
    /// Id and reason.
    later: BTreeMap<String, String>,
}

impl Sources {
    fn read(folder: &Path) -> Self {
        let mut sources = Self { tests: Vec::new(), later: BTreeMap::new() };
        for path in rust_files(folder) {
            let module = path.strip_prefix(folder).unwrap().with_extension("");
            let module = module.to_string_lossy().replace('/', "::");
            let text = std::fs::read_to_string(&path).unwrap();
            for line in text.lines().map(str::trim) {
                sources.line(&module, line);
            }
        }
        sources
    }

    fn line(&mut self, module: &str, line: &str) {
        if let Some((id, reason)) =
            line.strip_prefix("// not yet: ").and_then(|rest| rest.split_once(' '))
        {
            self.later.insert(id.to_owned(), reason.trim().to_owned());
        }
        let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        if let Some((name, _)) = name.and_then(|rest| rest.split_once("()")) {
            self.tests.push(format!("{module}::{name}"));
        }
    }

    /// The tests that carry the id in their names.
    fn of(&self, id: &str) -> Vec<&str> {
        let needle = id.replace('-', "_");
        let carries = |test: &&str| {
            let name = test.rsplit("::").next().unwrap_or_default();
            name.match_indices(&needle).any(|(at, _)| {
                let (before, after) = (&name[..at], &name[at + needle.len()..]);
                !before.ends_with(|c: char| c.is_ascii_alphanumeric())
                    && !after.starts_with(|c: char| c.is_ascii_digit())
            })
        };
        self.tests.iter().map(String::as_str).filter(carries).collect()
    }

    /// The tests of a case, and what they leave out; or why there is none.
    fn held_by(&self, case: &Case) -> (bool, String) {
        let own = self.later.get(&case.id).map(String::as_str);
        let tests: Vec<_> = self.of(&case.id).iter().map(|test| format!("`{test}`")).collect();
        if tests.is_empty() {
            let area = LATER.iter().find(|(area, _)| *area == case.area).map(|(_, reason)| *reason);
            return (false, own.or(area).unwrap_or(NOWHERE).to_owned());
        }
        let left_out = own.map_or_else(String::new, |reason| format!("; not yet: {reason}"));
        (true, format!("{}{left_out}", tests.join(", ")))
    }
}

/// All below the folder, in order.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut entries: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn render(cases: &[Case], sources: &Sources) -> String {
    let mut by_area: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
    for case in cases {
        by_area.entry(&case.area).or_default().push(case);
    }
    let held = |cases: &[&Case]| cases.iter().filter(|case| sources.held_by(case).0).count();
    let all: Vec<&Case> = cases.iter().collect();
    let mut text = String::from("# Hostile cases and the tests that hold them\n\n");
    text.push_str("Made from the tests' names by `coverage.rs`; do not edit.\n\n");
    text.push_str("| area | cases | with a test |\n|---|---|---|\n");
    for (area, cases) in &by_area {
        writeln!(text, "| {area} | {} | {} |", cases.len(), held(cases)).unwrap();
    }
    writeln!(text, "| all | {} | {} |", all.len(), held(&all)).unwrap();
    for (area, cases) in &by_area {
        write!(text, "\n## {area}\n\n| case | test, or why there is none |\n|---|---|\n").unwrap();
        for case in cases {
            writeln!(text, "| {} | {} |", case.id, sources.held_by(case).1).unwrap();
        }
    }
    text
}
