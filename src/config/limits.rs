//! `limits:` one table of every bound: its key, its unit, its default, its range, what it bounds. There is no unlimited.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::error::{ConfigError, quoted};
use super::quantity::{ByteSize, Quantity, Text};
use super::written::{At, WrittenFile};

/// Defines the limits as meant, as written, and as documented, from one table.
macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $field:ident, $key:literal: $type:ty = $default:expr, $min:expr => $max:expr;)+) => {
        /// Every bound that an operator may change.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits {
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        /// The bounds. There is no unlimited.
        #[derive(Debug, Default, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub(super) struct WrittenLimits {
            $($(#[doc = $doc])+ #[serde(rename = $key)] $field: Option<At<Text<$type>>>,)+
        }

        impl WrittenLimits {
            pub(super) fn compile(&self, file: &WrittenFile, errors: &mut Vec<ConfigError>) -> Limits {
                let default = Limits::default();
                Limits {
                    $($field: read($key, self.$field.as_ref(), default.$field, ($min, $max), file, errors),)+
                }
            }
        }

        /// Every limit, in the order of the documentation.
        pub const TABLE: &[LimitRow] = &[$(LimitRow {
            key: $key,
            default: || show::<$type>($default),
            range: || (show::<$type>($min), show::<$type>($max)),
            doc: concat!($($doc),+),
        }),+];
    };
}

limits! {
    /// The head of a request or an answer: its first line and all its fields.
    headers, "headers": ByteSize = ByteSize::kib(64), ByteSize::kib(1) => ByteSize::mib(1);
    /// The target of a request.
    target, "target": ByteSize = ByteSize::kib(16), ByteSize::bytes(256) => ByteSize::kib(256);
    /// The fields of one head.
    fields, "fields": u32 = 100, 10 => 10_000;
    /// A body that is held whole to be rewritten with an exact length; larger ones are streamed. Also what the values of opened tokens may add to one body, or to one piece of a streamed one.
    buffered_body, "bufferedBody": ByteSize = ByteSize::mib(1), ByteSize::kib(1) => ByteSize::mib(64);
    /// An encoded answer of a host with a bound secret, once it is decoded; beyond it the answer is cut.
    decoded_body, "decodedBody": ByteSize = ByteSize::mib(1_024), ByteSize::kib(1) => ByteSize::mib(1_048_576);
    /// How many times as long such an answer may be when it is decoded, once that is more than `bufferedBody`.
    decoded_ratio, "decodedRatio": u32 = 200, 2 => 1_000_000;
    /// Client connections at once, of all sandboxes.
    connections, "connections": u32 = 16_384, 1 => 1_000_000;
    /// Client connections at once, of one sandbox.
    connections_per_sandbox, "connectionsPerSandbox": u32 = 1_024, 1 => 1_000_000;
    /// Refusals within a minute that one sandbox reads inside TLS on a transparent listener, each with a leaf of its own; beyond it there is an alert.
    told_refusals, "toldRefusals": u32 = 60, 1 => 1_000_000;
    /// HTTP/2 streams at once on one client connection.
    streams_per_connection, "streamsPerConnection": u32 = 100, 1 => 10_000;
    /// From a client's first byte of TLS to the end of its handshake.
    handshake_timeout, "handshakeTimeout": Duration = Duration::from_secs(10), Duration::from_millis(10) => Duration::from_secs(600);
    /// From the start of a connection, or the end of the last request, to the end of a request's head.
    header_timeout, "headerTimeout": Duration = Duration::from_secs(30), Duration::from_millis(10) => Duration::from_secs(3_600);
    /// A connection, tunnel or stream on which nothing moves.
    idle_timeout, "idleTimeout": Duration = Duration::from_secs(300), Duration::from_millis(10) => Duration::from_secs(86_400);
    /// Resolving, dialling and the TLS handshake with an upstream.
    connect_timeout, "connectTimeout": Duration = Duration::from_secs(10), Duration::from_millis(10) => Duration::from_secs(600);
    /// From the end of a request to the head of its answer.
    response_timeout, "responseTimeout": Duration = Duration::from_secs(300), Duration::from_millis(10) => Duration::from_secs(86_400);
    /// How long an upstream connection without a request is kept.
    pool_idle, "poolIdle": Duration = Duration::from_secs(90), Duration::from_millis(10) => Duration::from_secs(3_600);
    /// Upstream connections without a request kept for one sandbox and host.
    pool_per_host, "poolPerHost": u32 = 32, 1 => 10_000;
    /// Requests within an hour in which a sandbox shows a real value to a host that it is not bound to; then its secrets rest.
    exposed_hits, "exposedHits": u32 = 10, 1 => 10_000;
    /// DNS questions of one sandbox in a second; twice as many may come at once. Beyond it a datagram is dropped.
    dns_questions, "dnsQuestions": u32 = 200, 1 => 100_000;
    /// Leaf certificates kept for the next connection to their name.
    leaf_cache, "leafCache": u32 = 1_024, 1 => 1_000_000;
    /// From the signal to stop until what still runs is cut.
    drain_timeout, "drainTimeout": Duration = Duration::from_secs(30), Duration::from_millis(10) => Duration::from_secs(3_600);
    /// Audit lines that wait to be written; beyond it requests wait too.
    audit_queue, "auditQueue": ByteSize = ByteSize::mib(8), ByteSize::kib(64) => ByteSize::mib(1_024);
}

/// One limit, for documentation.
#[derive(Clone, Copy, Debug)]
pub struct LimitRow {
    /// The key below `limits`.
    pub key: &'static str,
    /// The default as one would write it.
    pub default: fn() -> String,
    /// The smallest and the largest value.
    pub range: fn() -> (String, String),
    /// What it bounds.
    pub doc: &'static str,
}

/// The limits as a Markdown table, which the README holds.
#[must_use]
pub fn markdown() -> String {
    let mut table = String::from("| limit | default | bounds |\n|---|---|---|\n");
    for row in TABLE {
        let line = format!("| `{}` | {} | {} |\n", row.key, (row.default)(), row.doc.trim());
        table.push_str(&line);
    }
    table
}

fn show<T: Quantity>(quantity: T) -> String {
    quantity.show()
}

fn read<T: Quantity>(
    key: &str,
    written: Option<&At<Text<T>>>,
    default: T,
    (min, max): (T, T),
    file: &WrittenFile,
    errors: &mut Vec<ConfigError>,
) -> T {
    let Some(written) = written else {
        return default;
    };
    let text = &written.value().text;
    let hint = match T::parse(text) {
        Ok(value) if min <= value && value <= max => return value,
        Ok(_) => format!("it lies between {} and {}", min.show(), max.show()),
        Err(error) => error.to_string(),
    };
    let message = format!("limits.{key}: `{}` cannot be used", quoted(text));
    errors.push(ConfigError::new(file.origin(written), message).hint(hint));
    default
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_lies_within_its_range_and_is_documented() {
        for row in TABLE {
            assert!(row.doc.trim().ends_with('.') && row.doc.len() > 10, "{}", row.key);
        }
        let written = TABLE.iter().map(|row| format!("  {}: {}\n", row.key, (row.default)()));
        let text = format!("limits:\n{}", written.collect::<String>());
        let config = super::super::tests::load(&text).unwrap();
        assert_eq!(config.limits, Limits::default());
        assert!(markdown().contains("| `bufferedBody` | 1MiB |"));
    }
}
