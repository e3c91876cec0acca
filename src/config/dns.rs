//! `dns:` what the responder answers, as written and as meant.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Deserialize;

use super::error::{ConfigError, quoted};
use super::written::{At, WrittenFile};
use crate::dns::{Denied, Settings, Sinks};

/// What the DNS responder answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// The sink addresses; the address to which a question came, if `None`.
    pub sinks: Option<Sinks>,
    /// What is said of a name that the policy does not open.
    pub denied: Denied,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WrittenDns {
    /// The addresses with which every name is answered, at most one of each family: those at which sandboxes reach Tollgate. By default the
    /// address to which the question came.
    sink: Option<Vec<At<String>>>,
    /// What is said of a name that the policy does not open: the `sink`, where a client reads why it is denied, or `refused`.
    denied: Option<At<WrittenDenied>>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum WrittenDenied {
    Sink,
    Refused,
}

impl Dns {
    /// What a responder on a listener of this address answers.
    #[must_use]
    pub fn settings(&self, listener: IpAddr) -> Settings {
        let sinks = self.sinks.unwrap_or_else(|| Sinks::of(listener.to_canonical()));
        Settings { sinks, denied: self.denied }
    }
}

impl WrittenDns {
    pub(super) fn compile(&self, file: &WrittenFile, errors: &mut Vec<ConfigError>) -> Dns {
        let denied = match self.denied.as_ref().map(At::value) {
            None | Some(WrittenDenied::Sink) => Denied::Sink,
            Some(WrittenDenied::Refused) => Denied::Refused,
        };
        let Some(written) = &self.sink else { return Dns { sinks: None, denied } };
        let mut sinks = Sinks::default();
        for at in written {
            if let Err(why) = add(&mut sinks, at.value()) {
                let message = format!("dns.sink: `{}` {why}", quoted(at.value()));
                let hint = "write one IPv4 and one IPv6 address at most, at which sandboxes reach Tollgate";
                errors.push(ConfigError::new(file.origin(at), message).hint(hint));
            }
        }
        Dns { sinks: Some(sinks).filter(|_| !written.is_empty()), denied }
    }
}

fn add(sinks: &mut Sinks, text: &str) -> Result<(), &'static str> {
    let taken = match text.parse::<IpAddr>().map_err(|_error| "is not an IP address")? {
        ip if ip.is_unspecified() || ip.is_multicast() || is_broadcast(ip) => {
            return Err("is not the address of one host");
        }
        IpAddr::V4(v4) => sinks.v4.replace(v4).is_some(),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => return Err("is an IPv4 address"),
        IpAddr::V6(v6) => sinks.v6.replace(v6).is_some(),
    };
    if taken { Err("is the second address of its family") } else { Ok(()) }
}

fn is_broadcast(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(v4) if v4.is_broadcast())
}
