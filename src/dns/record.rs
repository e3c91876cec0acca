//! What was refused, as audit events. Bounded: of a flood the first of each kind are written, the rest is counted and summed up once a
//! minute.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Carrier;
use super::outcome::not_answered;
use super::question::{Fault, Question};
use crate::audit::{Audit, Event, Kind};
use crate::policy::{Denial, DenyReason};
use crate::secret::SandboxId;

/// Who asked, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// None for a sender that is no sandbox.
    pub(super) sandbox: Option<&'a SandboxId>,
    pub(super) peer: SocketAddr,
    pub(super) carrier: Carrier,
}

/// Writes events, at most so many a period for each sandbox.
#[derive(Debug)]
pub(super) struct Records {
    audit: Audit,
    /// One for each sandbox that was refused something within the period, and one for all who are none.
    windows: Mutex<BTreeMap<Option<SandboxId>, Window>>,
}

/// How often what was not written one by one is summed up.
pub(super) const PERIOD: Duration = Duration::from_secs(60);
/// Events of one sandbox within a period, and as many alerts again, so that a flood of the ones cannot hide the others.
const MOST: usize = 50;

/// What was refused to one sandbox within the period.
#[derive(Debug, Default)]
struct Window {
    /// Host and type of question that were written.
    written: BTreeSet<(DenyReason, Arc<str>, String)>,
    alerts: usize,
    others: u64,
}

impl Records {
    pub(super) const fn new(audit: Audit) -> Self {
        Self { audit, windows: Mutex::new(BTreeMap::new()) }
    }

    /// A question that was refused, or answered with the sink although nothing would be allowed there.
    pub(super) fn denied(
        &self,
        asked: &Asked<'_>,
        question: &Question,
        host: Arc<str>,
        denial: &Denial,
        answer: &'static str,
    ) {
        self.event(asked, host, question.query.query_type.to_string(), denial, answer);
    }

    /// A message that asks nothing.
    pub(super) fn fault(&self, asked: &Asked<'_>, fault: &Fault) {
        let denial = not_answered(fault.what());
        self.event(asked, Arc::default(), String::new(), &denial, fault.as_str());
    }

    /// A question above the sandbox's rate.
    pub(super) fn over_rate(&self, asked: &Asked<'_>, answer: &'static str) {
        let (detail, hint) = match asked.sandbox {
            Some(_) => (
                "more DNS questions than one sandbox may ask in a second",
                "ask less often, or have an operator raise limits.dnsQuestions",
            ),
            None => (
                "more DNS questions than all who are no sandbox may ask in a second",
                "an operator would give the sandbox its address in `sources`",
            ),
        };
        let denial = Denial::new(DenyReason::LimitExceeded, detail, hint);
        self.event(asked, Arc::default(), String::new(), &denial, answer);
    }

    /// Writes what was only counted, and begins the next period.
    pub(super) fn summarise(&self) {
        let ended =
            std::mem::take(&mut *self.windows.lock().unwrap_or_else(PoisonError::into_inner));
        for (sandbox_id, window) in ended.into_iter().filter(|(_, window)| window.others > 0) {
            let mut event = Event::new(Kind::Dns);
            event.sandbox_id = sandbox_id;
            event.verdict = crate::audit::Outcome::Deny;
            event.others = window.others;
            event.detail = "further questions that were denied within the minute".into();
            self.audit.emit(event);
        }
    }

    fn event(
        &self,
        asked: &Asked<'_>,
        host: Arc<str>,
        kind: String,
        denial: &Denial,
        answer: &'static str,
    ) {
        let is_alert = denial.reason == DenyReason::SecretMisdirected;
        if !self.admits(asked, &host, &kind, denial.reason, is_alert) {
            return;
        }
        let mut event = Event::new(Kind::Dns);
        event.sandbox_id = asked.sandbox.cloned();
        event.client = Some(asked.peer.to_string().into());
        event.host = host;
        event.method = kind;
        event.protocol = match asked.carrier {
            Carrier::Udp => "dns/udp",
            Carrier::Tcp => "dns/tcp",
        };
        event.answer = answer;
        event.deny(denial);
        // There is no HTTP status in an answer of DNS.
        event.status = None;
        self.audit.emit(event);
    }

    /// Whether the event is written, or else counted. The same question again within the period is counted.
    fn admits(
        &self,
        asked: &Asked<'_>,
        host: &Arc<str>,
        kind: &str,
        reason: DenyReason,
        is_alert: bool,
    ) -> bool {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let window = windows.entry(asked.sandbox.cloned()).or_default();
        let room = if is_alert {
            window.alerts < MOST
        } else {
            window.written.len() - window.alerts < MOST
        };
        if room && window.written.insert((reason, host.clone(), kind.to_owned())) {
            window.alerts += usize::from(is_alert);
            return true;
        }
        window.others += 1;
        false
    }
}
