//! `tollgate.yaml` as written: texts with their places, nothing judged yet. What it means is `compile`'s.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::dns::WrittenDns;
use super::error::Origin;
use super::limits::WrittenLimits;

/// A file's name with what it holds.
#[derive(Debug, Default)]
pub(super) struct WrittenFile {
    /// `None`: there is no file, and everything has its default.
    pub(super) path: Option<PathBuf>,
    pub(super) written: Written,
}

impl WrittenFile {
    pub(super) fn origin<T>(&self, at: &At<T>) -> Origin {
        let location = at.0.referenced;
        self.place(location.line(), location.column())
    }

    pub(super) fn place(&self, line: u64, column: u64) -> Origin {
        Origin::File { path: self.path.clone().unwrap_or_default(), line, column }
    }
}

/// The configuration of the Tollgate server. Every key is optional.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(title = "tollgate.yaml")]
pub(super) struct Written {
    /// Policy files, or folders of them.
    pub(super) policies: Option<Vec<At<String>>>,
    /// Where Tollgate listens.
    pub(super) listen: Option<WrittenListen>,
    /// The certificate authority.
    pub(super) ca: Option<WrittenCa>,
    /// The key from which sealed tokens are derived.
    pub(super) seal: Option<WrittenSeal>,
    /// What the operator allows and denies to every sandbox.
    pub(super) egress: Option<WrittenEgress>,
    /// What the DNS responder answers.
    pub(super) dns: Option<WrittenDns>,
    /// How upstreams are found and trusted.
    pub(super) upstream: Option<WrittenUpstream>,
    /// The operator's API.
    pub(super) api: Option<WrittenApi>,
    /// The audit log.
    pub(super) audit: Option<WrittenAudit>,
    /// Where a refused CONNECT gets its answer: before the tunnel, or inside it for clients that hide a refusal's body.
    pub(super) denials: Option<At<WrittenDenials>>,
    /// The bounds.
    pub(super) limits: Option<WrittenLimits>,
    #[schemars(skip)]
    pub(super) storage: Option<At<IgnoredAny>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WrittenListen {
    /// Addresses of the explicit proxy (CONNECT and absolute-form); by default 127.0.0.1:3128, or none beside a transparent listener.
    pub(super) explicit: Option<Vec<At<WrittenListener>>>,
    /// Addresses to which nftables redirects connections (`redirect`).
    pub(super) transparent: Option<Vec<At<WrittenListener>>>,
    /// Addresses to which nftables hands connections over (`tproxy`).
    pub(super) tproxy: Option<Vec<At<WrittenListener>>>,
    /// The address of the operator's API, on loopback; by default 127.0.0.1:3130 if `api.keys` has a key, otherwise none.
    pub(super) api: Option<At<String>>,
    /// The address of /metrics, /healthz and /readyz, on loopback; by default none.
    pub(super) metrics: Option<At<String>>,
    /// The load balancers in front, which say who the client is.
    pub(super) proxy_protocol: Option<WrittenProxyProtocol>,
    /// Whether sandboxes may be listened to on other addresses than loopback.
    pub(super) non_local: Option<bool>,
    /// Addresses of the DNS responder, UDP and TCP on each; by default none.
    pub(super) dns: Option<Vec<At<WrittenListener>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WrittenProxyProtocol {
    /// Their addresses or networks. From there version 2 of the PROXY protocol is required, and from nowhere else is it read.
    pub(super) from: Vec<At<String>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WrittenCa {
    /// The folder of the authority and the seal key, created on first start; by default `certs`.
    pub(super) dir: Option<At<String>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WrittenSeal {
    /// Where the key comes from; by default `seal.key` beside the authority.
    pub(super) key: Option<At<WrittenSource>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WrittenEgress {
    /// What holds where no layer has an allowlist: `allow` any public host, or `deny` everything.
    pub(super) default: Option<At<WrittenFloor>>,
    /// Host patterns that beat every allow.
    pub(super) deny: Option<Vec<At<String>>>,
    /// Internal networks that may be dialled, for names that an entry other than `*` opened.
    pub(super) allow_private: Option<Vec<At<WrittenPrivate>>>,
    /// Prefixes of the network's NAT64: an address below one is judged by the IPv4 address that it embeds. By default none, and every such
    /// address is internal.
    pub(super) nat64: Option<Vec<At<String>>>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum WrittenFloor {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum WrittenDenials {
    Connect,
    Inside,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WrittenUpstream {
    /// PEM files of trust anchors, beside the platform's.
    pub(super) roots: Option<Vec<At<String>>>,
    /// Where to connect in place of a host and port: `"api.example.com:443": "127.0.0.1:8443"`.
    pub(super) connect_to: Option<Pairs>,
    /// `system`, or the addresses of name servers.
    pub(super) resolver: Option<At<WrittenResolver>>,
    /// The mark (SO_MARK) of Tollgate's own sockets, so that rules of the firewall let them pass; by default none.
    pub(super) mark: Option<At<u32>>,
    /// A corporate proxy through which upstreams are reached, by CONNECT.
    pub(super) proxy: Option<WrittenProxy>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WrittenProxy {
    /// Where it listens: `http://proxy.corp.example:3128`.
    pub(super) url: At<String>,
    /// Where its `user:password` comes from.
    pub(super) credentials: Option<At<WrittenSource>>,
    /// Patterns of hosts that are reached without it.
    pub(super) no_proxy: Option<Vec<At<String>>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WrittenApi {
    /// Keys of which a caller shows one; without any there is no API.
    pub(super) keys: Option<Vec<At<WrittenSource>>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WrittenAudit {
    /// A path, or `-` for standard output, which is the default.
    pub(super) file: Option<At<String>>,
}

/// A value with the place where it is written.
#[derive(Debug, Deserialize)]
#[serde(transparent, bound(deserialize = "T: Deserialize<'de>"))]
pub(super) struct At<T>(Spanned<T>);

impl<T> At<T> {
    pub(super) const fn value(&self) -> &T {
        &self.0.value
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A source of a key: exactly one of `env`, `file` and `command`. The key itself is never written here.
#[derive(Debug)]
pub(super) struct WrittenSource(pub(super) SourceFields);

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(rename = "KeySource", extend("maxProperties" = 1))]
pub(super) struct SourceFields {
    /// An environment variable of Tollgate.
    pub(super) env: Option<At<String>>,
    /// A file.
    pub(super) file: Option<At<String>>,
    /// A program and its arguments; its standard output is the value. There is no shell.
    pub(super) command: Option<Vec<At<String>>>,
}

/// One listener for sandboxes.
#[derive(Debug)]
pub(super) enum WrittenListener {
    Address(String),
    Entry(ListenerFields),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(rename = "Listener")]
pub(super) struct ListenerFields {
    /// The address, such as `10.0.0.1:3129`.
    pub(super) address: At<String>,
    /// The sandbox to which all that comes in belongs.
    pub(super) sandbox: Option<At<String>>,
}

/// One entry of `egress.allowPrivate`.
#[derive(Debug)]
pub(super) enum WrittenPrivate {
    Network(String),
    Entry(PrivateFields),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(rename = "PrivateNetwork")]
pub(super) struct PrivateFields {
    /// The network, such as `10.0.0.0/8`.
    pub(super) cidr: At<String>,
    /// The hosts that may resolve into it; every listed host, if absent.
    pub(super) hosts: Option<Vec<At<String>>>,
}

/// `upstream.resolver`.
#[derive(Debug)]
pub(super) enum WrittenResolver {
    Named(String),
    Servers(Vec<At<String>>),
}

/// A mapping whose keys keep their places.
#[derive(Debug)]
pub(super) struct Pairs(pub(super) Vec<(At<String>, At<String>)>);

/// Implements `Deserialize` by a visitor for what may be written in more than one way; serde's `untagged` would lose the places.
macro_rules! written_as {
    ($type:ty, $expecting:literal, { $($visit:item)+ }, $schema:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Reader(PhantomData<$type>);

                impl<'de> Visitor<'de> for Reader {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    $($visit)+
                }

                deserializer.deserialize_any(Reader(PhantomData))
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let schema: fn(&mut SchemaGenerator) -> Schema = $schema;
                schema(generator)
            }
        }
    };
}

written_as!(
    WrittenSource,
    "one of `{ env: NAME }`, `{ file: PATH }`, `{ command: [PROGRAM] }`",
    {
        fn visit_str<E: Error>(self, _never_shown: &str) -> Result<Self::Value, E> {
            Err(E::custom(
                "a key is not written here; name where it comes from: `{ env: NAME }`, `{ file: PATH }` or `{ command: [PROGRAM] }`",
            ))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            SourceFields::deserialize(MapAccessDeserializer::new(map)).map(WrittenSource)
        }
    },
    |generator| generator.subschema_for::<SourceFields>()
);

written_as!(
    WrittenListener,
    "an address with a port such as `127.0.0.1:3128`, or `{ address, sandbox }`",
    {
        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(WrittenListener::Address(text.to_owned()))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            ListenerFields::deserialize(MapAccessDeserializer::new(map)).map(WrittenListener::Entry)
        }
    },
    |generator| {
        let fields = generator.subschema_for::<ListenerFields>();
        json_schema!({ "anyOf": [{ "type": "string" }, fields] })
    }
);

written_as!(
    WrittenPrivate,
    "a network such as `10.0.0.0/8`, or `{ cidr, hosts }`",
    {
        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(WrittenPrivate::Network(text.to_owned()))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            PrivateFields::deserialize(MapAccessDeserializer::new(map)).map(WrittenPrivate::Entry)
        }
    },
    |generator| {
        let fields = generator.subschema_for::<PrivateFields>();
        json_schema!({ "anyOf": [{ "type": "string" }, fields] })
    }
);

written_as!(
    WrittenResolver,
    "`system`, or a list of addresses such as `[192.0.2.53:53]`",
    {
        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(WrittenResolver::Named(text.to_owned()))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut servers = Vec::new();
            while let Some(server) = list.next_element()? {
                servers.push(server);
            }
            Ok(WrittenResolver::Servers(servers))
        }
    },
    |_| json_schema!({ "anyOf": [{ "const": "system" }, { "type": "array", "minItems": 1, "items": { "type": "string" } }] })
);

written_as!(
    Pairs,
    "a mapping of `host:port` to `address:port`",
    {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = map.next_entry()? {
                pairs.push(pair);
            }
            Ok(Pairs(pairs))
        }
    },
    |_| json_schema!({ "type": "object", "additionalProperties": { "type": "string" } })
);

/// The schema of the file.
pub(super) fn schema() -> serde_json::Value {
    schemars::schema_for!(Written).to_value()
}
