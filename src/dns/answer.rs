//! What a question is answered with, as bytes: never much longer than the question, and never so long that it would be cut.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Header, Message, Metadata, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA};
use hickory_proto::rr::{Name, RData, Record};

use super::question::{Fault, LONGEST, Question};
use crate::introspect;
use crate::policy::DenyReason;

/// What a question is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A sink address.
    Sink(IpAddr),
    /// The name of a sink address.
    SinkName,
    /// The name is there, a record of this type is not.
    NoData,
    /// Refused; with the reason as an Extended DNS Error where the policy decided.
    Refused(Option<DenyReason>),
}

/// How long an answer may be kept, in seconds: a policy may change, a sink may move.
const TTL: u32 = 30;
/// RFC 8914 §4.16, "Blocked": by a policy of whoever runs the responder.
const BLOCKED: u16 = 15;
/// The option that carries an Extended DNS Error.
const EXTENDED_ERROR: u16 = 15;

impl Answer {
    /// The name in the audit and the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sink(_) | Self::SinkName => "sink",
            Self::NoData => "nodata",
            Self::Refused(_) => "refused",
        }
    }

    /// The message that answers the question; none if it cannot be written.
    #[must_use]
    pub fn write(self, question: &Question) -> Option<Vec<u8>> {
        let mut message = begin(&question.header, question.edns);
        let name = question.query.name.clone();
        message.add_query(question.query.clone());
        match self {
            Self::Sink(IpAddr::V4(sink)) => {
                message.add_answer(Record::from_rdata(name, TTL, RData::A(A(sink))));
            }
            Self::Sink(IpAddr::V6(sink)) => {
                message.add_answer(Record::from_rdata(name, TTL, RData::AAAA(AAAA(sink))));
            }
            Self::SinkName => {
                let own = RData::PTR(PTR(own_name()?));
                message.add_answer(Record::from_rdata(name, TTL, own));
            }
            Self::NoData => {
                message.add_authority(Record::from_rdata(Name::root(), TTL, start_of_authority()?));
            }
            Self::Refused(reason) => {
                message.metadata.response_code = ResponseCode::Refused;
                if let (Some(reason), Some(edns)) = (reason, &mut message.edns) {
                    edns.options_mut().insert(extended_error(reason));
                }
            }
        }
        message.to_vec().ok()
    }
}

impl Fault {
    /// The message that answers it, if any does.
    #[must_use]
    pub fn write(&self) -> Option<Vec<u8>> {
        let Self::Answered { header, code, edns, .. } = self else { return None };
        let mut message = begin(header, *edns);
        message.metadata.response_code = *code;
        message.to_vec().ok()
    }
}

/// An answer with the id of its question; of the flags only RD is repeated.
fn begin(header: &Header, edns: bool) -> Message {
    let Metadata { id, op_code, recursion_desired, .. } = header.metadata;
    let mut message = Message::response(id, op_code);
    message.metadata.recursion_desired = recursion_desired;
    message.metadata.recursion_available = true;
    if edns {
        let mut ours = Edns::new();
        ours.set_max_payload(u16::try_from(LONGEST).unwrap_or(u16::MAX));
        message.set_edns(ours);
    }
    message
}

fn extended_error(reason: DenyReason) -> EdnsOption {
    let text = [&BLOCKED.to_be_bytes()[..], reason.as_str().as_bytes()].concat();
    EdnsOption::Unknown(EXTENDED_ERROR, text)
}

fn own_name() -> Option<Name> {
    Name::from_ascii(introspect::HOST).ok().map(|mut name| {
        name.set_fqdn(true);
        name
    })
}

/// RFC 2308 §3: how long the absence may be kept stands in the SOA record.
fn start_of_authority() -> Option<RData> {
    let own = own_name()?;
    let every = i32::try_from(TTL).ok()?;
    Some(RData::SOA(SOA::new(own.clone(), own, 1, every, every, every, TTL)))
}
