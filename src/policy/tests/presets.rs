//! `preset: NAME`: three words that stand for a shape, headers and hosts, and give way to whatever is written beside them.

use super::*;
use crate::host::Destination;
use crate::policy::presets;
use crate::secret::{HeaderRule, Locations, SourceSpec};

fn store(secrets: &str) -> Loaded {
    let text = format!(
        "secretStores:\n  s:\n    secrets:\n{secrets}\nsandboxes: {{ sb: {{ secretStores: [s] }} }}\n"
    );
    PolicySet::read(Path::new("p.yaml"), &text)
}

fn effective(loaded: &Loaded) -> EffectivePolicy {
    let set = loaded.set.as_ref().unwrap_or_else(|| panic!("{:?}", loaded.diagnostics));
    set.effective(&["s".parse().unwrap()], &OperatorRules::default()).unwrap()
}

fn opened(policy: &EffectivePolicy) -> Vec<String> {
    policy.allow_rules().iter().map(|rule| rule.pattern.to_string()).collect()
}

#[test]
fn three_words_are_enough_for_every_preset() {
    let mut seen = 0;
    let alone = presets().filter(|preset| !preset.name.starts_with("aws-"));
    for preset in alone {
        let loaded = store(&format!("      {}: {{ preset: {} }}", preset.variable, preset.name));
        assert_eq!(loaded.diagnostics, [], "{}", preset.name);
        let policy = effective(&loaded);
        let secret = &policy.secrets()[0];
        assert!(secret.own_hosts && secret.hosts == preset.hosts, "{}", preset.name);
        assert_eq!(secret.locations, preset.locations);
        assert!(matches!(secret.locations.header, HeaderRule::Only(_)), "{}", preset.name);
        assert_eq!(secret.placeholder, preset.placeholder);
        assert!(secret.placeholder.is_some(), "{}", preset.name);
        assert!(opened(&policy).len() >= secret.hosts.len().min(1), "{}", preset.name);
        let set = loaded.set.as_ref().unwrap();
        let def = set.secret(&secret.store, &secret.name).unwrap();
        assert_eq!(def.source, SourceSpec::Env(preset.variable.to_string()));
        seen += 1;
    }
    assert_eq!(seen, 11, "every line of the table can be read");
}

#[test]
fn twice_three_words_are_enough_for_a_pair_that_signs() {
    let loaded = store(
        "      AWS_ACCESS_KEY_ID: { preset: aws-access-key-id }\n      AWS_SECRET_ACCESS_KEY: { preset: aws-secret-access-key }",
    );
    let warnings: Vec<_> = loaded.diagnostics.iter().map(|found| found.code).collect();
    assert_eq!(warnings, ["public-suffix", "wildcard-grant", "public-suffix", "wildcard-grant"]);
    let policy = effective(&loaded);
    assert_eq!(opened(&policy), ["*.amazonaws.com"]);
    let secret = |name: &str| {
        policy.secrets().iter().find(|secret| secret.name.as_str() == name).unwrap().clone()
    };
    assert!(secret("AWS_SECRET_ACCESS_KEY").sign.is_some());
    assert_eq!(secret("AWS_SECRET_ACCESS_KEY").locations, Locations::NONE);
    let key_id = secret("AWS_ACCESS_KEY_ID");
    assert_eq!(key_id.placeholder.as_ref().unwrap().to_string(), "AKIA{sealed:16:A-Z2-7}");
    // Machines of customers stand below the wildcard.
    let machine = "ec2-1-2-3-4.eu-west-1.compute.amazonaws.com:443";
    let machine = Destination::parse_connect(machine).unwrap();
    let denied = decide_connect(&std::sync::Arc::new(policy), &machine).permit().unwrap_err();
    assert_eq!(denied.reason.as_str(), "host_denied");
}

#[test]
fn a_preset_is_the_shipped_policy_of_its_name() {
    let loaded = store("      GITHUB_TOKEN: { preset: github, from: { file: /run/token } }");
    let policy = effective(&loaded);
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/presets/github.yaml");
    let shipped = PolicySet::load(&[shipped]).set.unwrap();
    let shipped = shipped.effective(&["github".parse().unwrap()], &OperatorRules::default());
    let shipped = shipped.unwrap();
    assert_eq!(opened(&policy), opened(&shipped));
    assert_eq!(policy.secrets()[0].hosts, shipped.secrets()[0].hosts);
    let name = policy.allow_rules()[0].name.to_string();
    assert_eq!(name, "s: preset github: github.com");
}

#[test]
fn fields_that_are_written_stand_and_the_rest_is_the_presets() {
    let loaded = store(
        "      A: { preset: openai, from: { env: X }, headers: [x-key], placeholder: 'k-{sealed:40}' }\n      B: { preset: anthropic, locations: [header, body] }",
    );
    let policy = effective(&loaded);
    let [a, b] = policy.secrets() else { panic!("two secrets") };
    assert_eq!(a.locations.header, HeaderRule::Only(vec!["x-key".parse().unwrap()]));
    assert_eq!(a.placeholder.as_ref().unwrap().to_string(), "k-{sealed:40}");
    assert_eq!(a.hosts[0].to_string(), "api.openai.com");
    assert!(b.locations.body && b.locations.header == HeaderRule::Usual);
    assert_eq!(b.placeholder.as_ref().unwrap().to_string(), "sk-ant-api03-{sealed:93}");
}

#[test]
fn who_names_the_hosts_opens_them_too() {
    let text = "secretStores:\n  s:\n    egressAllowlist: [git.corp.test]\n    secrets:\n      T: { preset: github, allowedHosts: [git.corp.test] }\n";
    let loaded = PolicySet::read(Path::new("p.yaml"), text);
    let policy = effective(&loaded);
    assert_eq!(opened(&policy), ["git.corp.test"]);
    assert_eq!(policy.secrets()[0].hosts[0].to_string(), "git.corp.test");
}

#[test]
fn an_entry_that_is_written_stands_and_what_a_preset_opens_binds_no_other_secret() {
    let text = "secretStores:\n  s:\n    egressAllowlist: [{ host: api.openai.com, methods: [GET] }, a.test]\n    secrets:\n      K: { preset: openai }\n      OTHER: { from: { env: OTHER } }\n";
    let loaded = PolicySet::read(Path::new("p.yaml"), text);
    let policy = effective(&loaded);
    let rule = &policy.allow_rules()[0];
    assert_eq!((rule.pattern.to_string().as_str(), rule.methods.len()), ("api.openai.com", 1));
    assert_eq!(opened(&policy).len(), 3);
    let other = policy.secrets().iter().find(|secret| secret.name.as_str() == "OTHER").unwrap();
    let hosts: Vec<_> = other.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["api.openai.com", "a.test"]);
    let loaded = store("      K: { preset: openai }\n      OTHER: { from: { env: OTHER } }");
    assert_eq!(loaded.diagnostics[0].code, "unbound-secret");
}

#[test]
fn an_unknown_preset_is_an_error_with_the_nearest_name() {
    for (written, hint) in
        [("githb", "did you mean `github`?"), ("bitbucket", "there are anthropic, aws-")]
    {
        let loaded = store(&format!("      K: {{ preset: {written} }}"));
        let errors = loaded.diagnostics.iter().filter(|found| found.severity == Severity::Error);
        let errors: Vec<_> = errors.map(|found| found.code).collect();
        assert_eq!(errors, ["unknown-preset"], "{:?}", loaded.diagnostics);
        assert!(loaded.diagnostics[0].hint.as_ref().unwrap().starts_with(hint));
    }
}

#[test]
fn a_fine_grained_token_has_its_own_shape() {
    let preset = presets().find(|preset| preset.name == "github-fine-grained").unwrap();
    assert_eq!(
        preset.placeholder.as_ref().unwrap().to_string(),
        "github_pat_{sealed:22}_{sealed:59}"
    );
}
