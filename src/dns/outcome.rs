//! One question of a known sandbox → its answer, and the denial that is recorded. Pure: nobody is asked.

use std::borrow::Cow;
use std::sync::Arc;

use hickory_proto::rr::{DNSClass, RecordType};

use super::answer::Answer;
use super::question::Question;
use super::{Denied, Settings, Sinks};
use crate::audit;
use crate::host::Host;
use crate::introspect;
use crate::policy::{Denial, DenyReason, decide_name};
use crate::proxy::sealed_in_name;
use crate::session::Session;

/// What becomes of a question.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) answer: Answer,
    /// Why it is refused; or, where the sink is told all the same, why a connection would be.
    pub(super) denial: Option<Denial>,
    /// The canonical host, or what stands in its place, bounded.
    pub(super) host: Arc<str>,
}

/// Answers a question by what its type asks for and, with `dns.denied: refused`, by the one decision.
pub(super) fn of(session: &Session, question: &Question, settings: &Settings) -> Outcome {
    let host = question.name_text().and_then(|text| Host::parse(&text).ok());
    let shown = host.as_ref().map_or_else(|| shown(question), Host::shared);
    let shown = match session.redacted(&shown) {
        Cow::Owned(clean) => clean.into(),
        Cow::Borrowed(_) => shown,
    };
    let (answer, denial) = match answer(session, question, host.as_ref(), settings) {
        Ok(answer) => (answer, None),
        Err((answer, denial)) => (answer, Some(denial)),
    };
    Outcome { answer, denial, host: shown }
}

/// A name as an audit line may hold it.
pub(super) fn shown(question: &Question) -> Arc<str> {
    audit::bounded(&question.name_bytes().escape_ascii().to_string()).into()
}

fn answer(
    session: &Session,
    question: &Question,
    host: Option<&Host>,
    settings: &Settings,
) -> Result<Answer, (Answer, Denial)> {
    let refused = |denial| (Answer::Refused(None), denial);
    sealed_in_name(session, &question.name_bytes()).map_err(refused)?;
    if question.query.query_class != DNSClass::IN {
        return Err(refused(not_answered("a question of another class than IN")));
    }
    let Some(host) = host.filter(|host| host.ip().is_none()) else {
        return Err(refused(not_answered("a question for what is no host name")));
    };
    let Some(answer) = by_type(question.query.query_type, host, settings) else {
        return Err(refused(not_answered("a question of a type that is not answered")));
    };
    if matches!(answer, Answer::SinkName) || is_hint(question.query.query_type) {
        return Ok(answer);
    }
    if introspect::is_ours(host) {
        return Ok(answer);
    }
    decide_name(session.policy(), host).permit().map_err(|denial| match settings.denied {
        Denied::Sink => (answer, denial),
        Denied::Refused => (Answer::Refused(Some(denial.reason)), denial),
    })?;
    Ok(answer)
}

/// What a type asks for; none where it is not answered.
fn by_type(kind: RecordType, host: &Host, settings: &Settings) -> Option<Answer> {
    let Sinks { v4, v6 } = settings.sinks;
    if kind == RecordType::A {
        Some(v4.map_or(Answer::NoData, |ip| Answer::Sink(ip.into())))
    } else if kind == RecordType::AAAA {
        Some(v6.map_or(Answer::NoData, |ip| Answer::Sink(ip.into())))
    } else if is_hint(kind) {
        Some(Answer::NoData)
    } else if kind == RecordType::PTR && settings.sinks.are_named(host.as_str()) {
        Some(Answer::SinkName)
    } else {
        None
    }
}

/// They would carry the key of an encrypted ClientHello, and hints of HTTP/3: there are none, whatever the policy says of the name.
fn is_hint(kind: RecordType) -> bool {
    kind == RecordType::HTTPS || kind == RecordType::SVCB
}

pub(super) fn not_answered(what: &str) -> Denial {
    Denial::new(
        DenyReason::ProtocolNotAllowed,
        what,
        "the responder answers A, AAAA, HTTPS and SVCB for host names, and PTR for its own address; a retry will not help",
    )
}
