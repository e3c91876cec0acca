//! What `/metrics` counts. Labels come from closed sets of our own: nothing that a sandbox sends can make a new series.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::audit::{Event, Kind, Observe, Outcome};

/// The counters of a process, fed by its audit.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Verdict, Counter>,
    /// The one of [`Metrics::requests`] that nearly every event counts in.
    allowed: Counter,
    denials: Family<Reason, Counter>,
    alerts: Counter,
    opened: Counter,
    scrubbed: Counter,
    bytes_out: Counter,
    bytes_in: Counter,
    loads: Family<Verdict, Counter>,
}

/// DNS questions by what they were answered with; counted where they are answered.
#[derive(Clone, Debug, Default)]
pub struct Questions(Family<Answered, Counter>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    answer: &'static str,
}

/// Client connections; counted where they are accepted.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    accepted: Counter,
    open: Gauge,
}

/// Counts one connection as open until it is dropped.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verdict {
    verdict: &'static str,
}

const ALLOWED: Verdict = Verdict { verdict: "allow" };
const DENIED: Verdict = Verdict { verdict: "deny" };

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl Metrics {
    /// All at zero, with the proxy's count of connections and the audit's of lines that it could not write.
    #[must_use]
    pub fn new(connections: &Connections, questions: &Questions, audit_lost: &Counter) -> Self {
        let requests = Family::<Verdict, Counter>::default();
        let mut metrics = Self {
            registry: Registry::with_prefix("tollgate"),
            allowed: requests.get_or_create_owned(&ALLOWED),
            requests,
            denials: Family::default(),
            alerts: Counter::default(),
            opened: Counter::default(),
            scrubbed: Counter::default(),
            bytes_out: Counter::default(),
            bytes_in: Counter::default(),
            loads: Family::default(),
        };
        metrics.register(connections);
        let Questions(questions) = questions;
        metrics.registry.register(
            "dns_questions",
            "DNS questions by their answer",
            questions.clone(),
        );
        metrics.registry.register(
            "audit_lost",
            "Audit events that could not be written",
            audit_lost.clone(),
        );
        metrics
    }

    fn register(&mut self, connections: &Connections) {
        let registry = &mut self.registry;
        registry.register("requests", "Requests by verdict", self.requests.clone());
        registry.register("denials", "Denials by reason", self.denials.clone());
        registry.register("alerts", "Attempts to misuse a credential", self.alerts.clone());
        registry.register(
            "secrets_opened",
            "Places in which a seal was opened",
            self.opened.clone(),
        );
        registry.register(
            "values_scrubbed",
            "Real values hidden in answers",
            self.scrubbed.clone(),
        );
        registry.register("bytes_out", "Body bytes towards upstreams", self.bytes_out.clone());
        registry.register("bytes_in", "Body bytes towards clients", self.bytes_in.clone());
        registry.register(
            "policy_loads",
            "Loads of the policy files; deny: refused",
            self.loads.clone(),
        );
        let Connections { accepted, open } = connections;
        registry.register("connections", "Client connections accepted", accepted.clone());
        registry.register("connections_open", "Client connections open", open.clone());
    }

    /// The exposition in OpenMetrics text.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Observe for Metrics {
    fn observe(&self, event: &Event) {
        let denied = event.verdict == Outcome::Deny;
        let verdict = if denied { DENIED } else { ALLOWED };
        if event.event == Kind::Policy {
            self.loads.get_or_create(&verdict).inc();
            return;
        }
        if event.event == Kind::Dns {
            // Counted where they are answered, each of them.
        } else if denied {
            self.requests.get_or_create(&verdict).inc();
        } else {
            self.allowed.inc();
        }
        if let Some(reason) = event.reason {
            self.denials.get_or_create(&Reason { reason: reason.as_str() }).inc();
        }
        if event.event == Kind::Alert {
            self.alerts.inc();
        }
        self.opened.inc_by(event.locations.len() as u64);
        self.scrubbed.inc_by(event.scrubbed);
        self.bytes_out.inc_by(event.bytes_out);
        self.bytes_in.inc_by(event.bytes_in);
    }
}

impl Questions {
    /// Counts one.
    pub fn count(&self, answer: &'static str) {
        self.0.get_or_create(&Answered { answer }).inc();
    }
}

impl Connections {
    /// Counts one more.
    #[must_use]
    pub fn accepted(&self) -> OpenConnection {
        self.accepted.inc();
        self.open.inc();
        OpenConnection(self.open.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Denial, DenyReason};

    #[test]
    fn events_are_counted_by_verdict_and_reason_and_never_by_host() {
        let connections = Connections::default();
        let metrics = Metrics::new(&connections, &Questions::default(), &Counter::default());
        let open = connections.accepted();
        drop(connections.accepted());
        let mut event = Event::new(Kind::Request);
        event.host = "secret-plans.example".into();
        event.path = "/unsaid".to_owned();
        event.bytes_in = 7;
        metrics.observe(&event);
        event.deny(&Denial::new(DenyReason::SecretMisdirected, "no", "no"));
        metrics.observe(&event);
        metrics.observe(&Event::new(Kind::Policy));
        let text = metrics.text().unwrap();
        for line in [
            "tollgate_requests_total{verdict=\"allow\"} 1",
            "tollgate_requests_total{verdict=\"deny\"} 1",
            "tollgate_denials_total{reason=\"secret_misdirected\"} 1",
            "tollgate_alerts_total 1",
            "tollgate_bytes_in_total 14",
            "tollgate_policy_loads_total{verdict=\"allow\"} 1",
            "tollgate_connections_total 2",
            "tollgate_connections_open 1",
        ] {
            assert!(text.lines().any(|written| written == line), "{line}\n{text}");
        }
        assert!(!text.contains("secret-plans") && !text.contains("unsaid"), "{text}");
        drop(open);
        assert!(metrics.text().unwrap().contains("tollgate_connections_open 0"));
    }
}
