//! The firewall's rules as `nft --json list ruleset` prints them, as far as the doctor asks.

use serde_json::Value;

/// The expressions of every rule.
#[derive(Debug)]
pub(super) struct Rules(Vec<Vec<Value>>);

impl Rules {
    pub(super) fn read(ruleset: &Value) -> Self {
        let objects = ruleset.get("nftables").and_then(Value::as_array);
        let rules = objects
            .into_iter()
            .flatten()
            .filter_map(|object| object.get("rule")?.get("expr")?.as_array().cloned());
        Self(rules.collect())
    }

    pub(super) fn redirects_to(&self, port: u16) -> bool {
        self.sends("redirect", port)
    }

    pub(super) fn hands_over_to(&self, port: u16) -> bool {
        self.sends("tproxy", port)
    }

    fn sends(&self, statement: &str, port: u16) -> bool {
        let to = |expression: &Value| {
            let target = expression.get(statement).and_then(|target| target.get("port"));
            target.and_then(Value::as_u64) == Some(u64::from(port))
        };
        self.0.iter().flatten().any(to)
    }

    /// A rule that drops whatever comes to it: it matches nothing, or interfaces alone.
    pub(super) fn drop_the_rest(&self) -> bool {
        let by_interface = |expression: &Value| {
            expression.get("match").is_none_or(|found| interface_of(found).is_some())
        };
        self.0.iter().any(|rule| {
            rule.iter().any(|expression| expression.get("drop").is_some())
                && rule.iter().all(by_interface)
        })
    }

    pub(super) fn reject_quic(&self) -> bool {
        let quic = |expression: &Value| {
            let right = expression.get("match").and_then(|found| found.get("right"));
            right.and_then(Value::as_u64) == Some(443)
        };
        self.0.iter().any(|rule| {
            rule.iter().any(|expression| expression.get("reject").is_some())
                && rule.iter().any(quic)
        })
    }

    /// The interfaces for which rules are, `*` at the end as the rules have it.
    pub(super) fn interfaces(&self) -> Vec<String> {
        let matches = self.0.iter().flatten().filter_map(|expression| expression.get("match"));
        let mut names: Vec<String> = matches.filter_map(interface_of).flat_map(texts).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// The right side of a match of the incoming interface's name.
fn interface_of(found: &Value) -> Option<&Value> {
    let key = found.get("left")?.get("meta")?.get("key")?.as_str()?;
    if key == "iifname" { found.get("right") } else { None }
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(values) => values.iter().flat_map(texts).collect(),
        Value::Object(fields) => fields.values().flat_map(texts).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(expressions: &Value) -> Rules {
        Rules::read(
            &json!({ "nftables": [{ "metainfo": {} }, { "rule": { "expr": expressions } }] }),
        )
    }

    fn from(interface: &Value) -> Value {
        json!({ "match": { "op": "==", "left": { "meta": { "key": "iifname" } }, "right": interface } })
    }

    #[test]
    fn a_redirect_is_known_by_its_port() {
        let found = rules(&json!([from(&json!("sbx-*")), { "redirect": { "port": 3129 } }]));
        assert!(found.redirects_to(3129) && !found.redirects_to(53) && !found.hands_over_to(3129));
        assert_eq!(found.interfaces(), ["sbx-*"]);
        assert!(rules(&json!([{ "tproxy": { "port": 3131 } }])).hands_over_to(3131));
    }

    #[test]
    fn only_a_drop_of_everything_drops_the_rest() {
        assert!(rules(&json!([{ "counter": {} }, { "drop": null }])).drop_the_rest());
        assert!(
            rules(&json!([from(&json!({ "set": ["a", "b"] })), { "drop": null }])).drop_the_rest()
        );
        let spoofed = json!({ "match": { "op": "==", "left": { "fib": {} }, "right": false } });
        assert!(!rules(&json!([spoofed, { "drop": null }])).drop_the_rest());
    }

    #[test]
    fn quic_is_rejected_by_its_port() {
        let port = |port: u16| json!({ "match": { "op": "==", "left": {}, "right": port } });
        assert!(rules(&json!([port(443), { "reject": {} }])).reject_quic());
        assert!(!rules(&json!([port(80), { "reject": {} }])).reject_quic());
        assert!(!rules(&json!([port(443), { "drop": null }])).reject_quic());
    }
}
