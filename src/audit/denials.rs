//! What was denied while a command ran, gathered for its end: which hosts, why, how often, and what would have allowed it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{Event, Kind, Observe, Outcome};
use crate::host::HostPattern;
use crate::policy::DenyReason;

/// Gathers denials. Bounded: a sandbox may be denied a million hosts.
#[derive(Debug, Default)]
pub struct Denials {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    kinds: BTreeMap<Refused, u64>,
    others: u64,
}

/// One kind of denial.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    /// Why.
    pub reason: DenyReason,
    /// The host, or what was sent in its place.
    pub host: String,
    /// The port.
    pub port: Option<u16>,
    /// The method, where the method or path decided.
    pub method: Option<String>,
    /// The path, where the path decided.
    pub path: Option<String>,
}

/// So many kinds are told apart.
const MOST: usize = 200;

impl Observe for Denials {
    fn observe(&self, event: &Event) {
        let (Outcome::Deny, Some(reason)) = (event.verdict, event.reason) else { return };
        // Who was told the sink is denied again where it connects.
        if event.event == Kind::Policy || event.answer == "sink" {
            return;
        }
        let refused = Refused::of(reason, event);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.kinds.len() < MOST || seen.kinds.contains_key(&refused) {
            *seen.kinds.entry(refused).or_default() += 1;
        } else {
            seen.others += 1;
        }
    }
}

impl Denials {
    /// Each kind with how often it was seen, and how many more there were.
    #[must_use]
    pub fn seen(&self) -> (Vec<(Refused, u64)>, u64) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.kinds.iter().map(|(refused, count)| (refused.clone(), *count)).collect(), seen.others)
    }
}

impl Refused {
    fn of(reason: DenyReason, event: &Event) -> Self {
        let by_path = reason == DenyReason::PathNotAllowed;
        let by_method = by_path || reason == DenyReason::MethodNotAllowed;
        Self {
            reason,
            host: event.host.to_string(),
            port: event.port,
            method: by_method.then(|| event.method.clone()),
            path: by_path.then(|| event.path.clone()),
        }
    }

    /// The allowlist entry that would have allowed it; none where an entry is not what was missing.
    #[must_use]
    pub fn entry(&self) -> Option<String> {
        let standard = matches!(self.port, None | Some(80 | 443));
        let host = match self.port {
            Some(port) if !standard => format!("{}:{port}", self.host),
            _ => self.host.clone(),
        };
        // Only what the policy's own reader takes is worth a suggestion, and safe on a terminal.
        host.parse::<HostPattern>().ok()?;
        let plain = |text: &str| {
            text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/".contains(&b))
                && !text.is_empty()
        };
        match (self.reason, &self.method, &self.path) {
            (DenyReason::HostNotAllowed | DenyReason::PortNotAllowed, ..) => {
                Some(format!("\"{host}\""))
            }
            (DenyReason::MethodNotAllowed, Some(method), _) if plain(method) => {
                Some(format!("{{ host: \"{host}\", methods: [{method}] }}"))
            }
            (DenyReason::PathNotAllowed, Some(method), Some(path))
                if plain(method) && plain(path) =>
            {
                Some(format!("{{ host: \"{host}\", methods: [{method}], paths: [\"{path}\"] }}"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Denial;

    fn denied(host: &str, port: u16, reason: DenyReason) -> Event {
        let mut event = Event::new(Kind::Request);
        event.host = host.into();
        event.port = Some(port);
        event.method = "POST".to_owned();
        event.path = "/v1".to_owned();
        event.deny(&Denial::new(reason, "no", "no"));
        event
    }

    #[test]
    fn kinds_are_counted_and_each_says_what_would_allow_it() {
        let denials = Denials::default();
        denials.observe(&Event::new(Kind::Request));
        for (host, port, reason) in [
            ("a.example", 443, DenyReason::HostNotAllowed),
            ("a.example", 443, DenyReason::HostNotAllowed),
            ("a.example", 8443, DenyReason::PortNotAllowed),
            ("a.example", 443, DenyReason::PathNotAllowed),
            ("a.example", 443, DenyReason::SecretMisdirected),
            ("\u{1b}[2J", 443, DenyReason::HostNotAllowed),
        ] {
            denials.observe(&denied(host, port, reason));
        }
        let (seen, others) = denials.seen();
        let entries: Vec<_> = seen.iter().filter_map(|(refused, _)| refused.entry()).collect();
        assert_eq!(
            entries,
            [
                "\"a.example\"",
                "\"a.example:8443\"",
                "{ host: \"a.example\", methods: [POST], paths: [\"/v1\"] }"
            ]
        );
        assert_eq!((seen.len(), others), (5, 0));
        assert_eq!(seen.iter().map(|(_, count)| count).sum::<u64>(), 6);
    }

    #[test]
    fn a_flood_of_hosts_is_counted_and_not_kept() {
        let denials = Denials::default();
        for nth in 0..MOST + 50 {
            denials.observe(&denied(&format!("h{nth}.example"), 443, DenyReason::HostNotAllowed));
        }
        let (seen, others) = denials.seen();
        assert_eq!((seen.len(), others), (MOST, 50));
    }
}
