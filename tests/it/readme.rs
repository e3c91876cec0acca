//! What the README shows is what the product does: its policies load, its fixture holds, its tables are the code's own.

use std::path::{Path, PathBuf};

use tollgate::config::{Config, Overrides, limits_table};
use tollgate::introspect::AllowedHosts;
use tollgate::policy::{DenyReason, OperatorRules, PolicySet, run_fixtures};

const README: &str = include_str!("../../README.md");

/// The code blocks of one language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let after = README.split(fence.as_str()).skip(1);
    after.filter_map(|rest| rest.split_once("\n```").map(|(block, _)| block)).collect()
}

fn is_policy(block: &str) -> bool {
    block.starts_with("secretStores:")
}

fn is_fixture(block: &str) -> bool {
    block.contains("\ncases:")
}

#[test]
fn its_policies_load_without_a_warning() {
    let policies: Vec<_> = blocks("yaml").into_iter().filter(|block| is_policy(block)).collect();
    assert!(!policies.is_empty());
    for policy in policies {
        let loaded = PolicySet::read(Path::new("README.md"), policy);
        let found: Vec<_> = loaded.diagnostics.iter().map(ToString::to_string).collect();
        assert!(loaded.set.is_some() && found.is_empty(), "{found:?}");
    }
}

#[test]
fn its_fixture_holds_for_its_policy() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = blocks("yaml");
    let policy = blocks.iter().find(|block| is_policy(block)).unwrap();
    let fixture = blocks.iter().find(|block| is_fixture(block)).unwrap();
    std::fs::write(folder.path().join("policy.yaml"), policy).unwrap();
    std::fs::write(folder.path().join("policy.test.yaml"), fixture).unwrap();
    let report = run_fixtures(&[folder.path().to_owned()]);
    assert!(report.passed(), "{report:?}");
}

#[test]
fn its_configuration_loads() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for block in blocks("yaml").iter().filter(|block| !is_policy(block) && !is_fixture(block)) {
        let file = folder.path().join("tollgate.yaml");
        std::fs::write(&file, block).unwrap();
        if let Err(errors) = Config::load(Some(&file), &Overrides::default()) {
            let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
            panic!("{errors:?}");
        }
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn its_table_of_limits_is_the_codes_own() {
    assert!(README.contains(&limits_table()), "the table should be:\n{}", limits_table());
}

#[test]
fn it_names_every_reason_of_a_denial() {
    for reason in DenyReason::ALL {
        assert!(README.contains(&format!("`{reason}`")), "{reason}");
    }
}

#[test]
fn the_allowed_hosts_that_it_shows_are_those_of_its_policy() {
    let policy = blocks("yaml").into_iter().find(|block| is_policy(block)).unwrap();
    let set = PolicySet::read(Path::new("README.md"), policy).set.unwrap();
    let (id, entry) = set.sandboxes().next().unwrap();
    let effective = set.effective(&entry.layers, &OperatorRules::default()).unwrap();
    let computed = serde_json::to_value(AllowedHosts::of(id, &effective)).unwrap();
    let shown = blocks("json").into_iter().find(|block| block.contains("baseSecretStore")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(shown).unwrap(), computed);
}

/// The threat model points at code and tests: what is renamed is renamed there too.
#[test]
fn every_file_that_it_names_exists() {
    let named = README.split('`').skip(1).step_by(2);
    let is_path = |text: &&str| {
        ["src/", "tests/", "policies/", "benches/", "fuzz/", "certs/README"]
            .iter()
            .any(|folder| text.starts_with(folder))
            && !text.contains(' ')
    };
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let missing: Vec<_> = named.filter(is_path).filter(|path| !root.join(path).exists()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
