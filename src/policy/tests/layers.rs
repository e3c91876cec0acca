//! Layers: what unites, what wins, and what never widens.

use super::*;
use crate::secret::StoreName;

const BASE_AND_FORK: &str = "\
secretStores:
  base:
    egressAllowlist: [a.test, b.test]
    egressDenylist: [never.test]
    secrets:
      OWN: { from: { env: A }, allowedHosts: [a.test] }
      INHERITED: { from: { env: B } }
  fork:
    egressAllowlist: [b.test, c.test, never.test]
    secrets:
      OWN: { from: { env: C } }
  bare:
    secrets:
      ANYWHERE: { from: { env: D }, allowedHosts: ['*'] }
";

fn effective(layers: &[&str]) -> EffectivePolicy {
    let layers: Vec<StoreName> = layers.iter().map(|name| name.parse().unwrap()).collect();
    set(BASE_AND_FORK).effective(&layers, &OperatorRules::default()).unwrap()
}

fn hosts_of(policy: &EffectivePolicy, secret: &str) -> Vec<String> {
    let secret = policy.secrets().iter().find(|s| s.name.as_str() == secret).unwrap();
    secret.hosts.iter().map(ToString::to_string).collect()
}

#[test]
fn allowlists_unite_in_layer_order_and_each_entry_counts_once() {
    let policy = effective(&["base", "fork", "base"]);
    let names: Vec<_> = policy.allow_rules().iter().map(|rule| rule.name.to_string()).collect();
    assert_eq!(
        names,
        [
            "base: egressAllowlist[0] a.test",
            "base: egressAllowlist[1] b.test",
            "fork: egressAllowlist[1] c.test",
            "fork: egressAllowlist[2] never.test"
        ]
    );
    assert_eq!(policy.layers().len(), 2);
}

#[test]
fn a_fork_never_widens_where_base_secrets_go() {
    assert_eq!(hosts_of(&effective(&["base", "fork"]), "INHERITED"), ["a.test", "b.test"]);
}

#[test]
fn a_later_layer_wins_a_secret_whole() {
    assert_eq!(hosts_of(&effective(&["base", "fork"]), "OWN"), ["b.test", "c.test", "never.test"]);
    assert_eq!(hosts_of(&effective(&["fork", "base"]), "OWN"), ["a.test"]);
}

#[test]
fn a_layer_without_an_allowlist_adds_nothing_to_the_union() {
    assert_eq!(effective(&["base", "bare"]).allow_rules().len(), 2);
    assert!(matches!(effective(&["bare"]).allowlist(), Allowlist::Unrestricted));
    assert!(matches!(effective(&[]).allowlist(), Allowlist::Unrestricted));
}

#[test]
fn a_layer_that_does_not_exist_is_an_error() {
    let layers = ["nobody".parse().unwrap()];
    let error = set(BASE_AND_FORK).effective(&layers, &OperatorRules::default()).unwrap_err();
    assert!(error.to_string().contains("`nobody`"));
}

#[test]
fn the_same_layers_give_the_same_digest_and_others_another() {
    assert_eq!(
        effective(&["base", "fork"]).digest(),
        effective(&["base", "fork", "fork"]).digest()
    );
    assert_ne!(effective(&["base", "fork"]).digest(), effective(&["fork", "base"]).digest());
}
