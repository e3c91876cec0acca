//! What to export in a sandbox: sealed tokens, the proxy, and the authority for every client that can be told.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::session::Session;

/// Where a sandbox finds the proxy and what it trusts.
#[derive(Clone, Debug)]
pub struct Places {
    /// The explicit listener as the sandbox reaches it; none where its connections are redirected.
    pub proxy: Option<SocketAddr>,
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The platform's roots and the authority's certificate, for clients whose variable replaces their roots.
    pub bundle: PathBuf,
    /// The same as a Java trust store, if one was written.
    pub java: Option<PathBuf>,
    /// Whether the proxy's address carries the sandbox's credentials.
    pub credentials: Credentials,
}

/// When the proxy's address carries credentials: Java and Chromium cannot use them, a shared listener needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Always.
    Always,
    /// Only if a secret is added by the proxy itself, which asks for them on a shared loopback listener.
    IfInjected,
    /// Never: for a sandbox that is recognised by its address.
    Never,
}

/// The variables of one sandbox, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

/// Variables that replace a client's roots.
const BUNDLE: [&str; 15] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "NPM_CONFIG_CAFILE",
    "BUNDLE_SSL_CA_CERT",
    "DENO_CERT",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "HTTPLIB2_CA_CERTS",
    "COMPOSER_CAFILE",
    "NIX_SSL_CERT_FILE",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
];

/// Variables that hold the proxy's address, which clients read in either case.
const PROXY: [&str; 2] = ["HTTP_PROXY", "HTTPS_PROXY"];
/// The variable that holds what is never proxied, in either case as well.
const EXCEPTIONS: &str = "NO_PROXY";
/// The variable that has Node read the others.
const NODE: &str = "NODE_USE_ENV_PROXY";
/// Variables of the kind that Tollgate does not set.
const OTHERS: [&str; 2] = ["ALL_PROXY", "FTP_PROXY"];

/// Whether a name is that of a variable through which clients find a proxy, or go past it.
#[must_use]
pub fn names_a_proxy(name: &OsStr) -> bool {
    let known = PROXY.iter().chain(&OTHERS).chain([&EXCEPTIONS, &NODE]);
    let name = name.as_encoded_bytes();
    known.into_iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name))
}

/// What is never proxied.
const NO_PROXY: &str = "localhost,127.0.0.1,::1";

impl Environment {
    /// The variables of a session's sandbox.
    #[must_use]
    pub fn of(session: &Session, places: &Places) -> Self {
        let mut variables = BTreeMap::new();
        let mut set = |name: &str, value: String| drop(variables.insert(name.to_owned(), value));
        for secret in session.secrets().iter().filter(|secret| secret.bound.inject.is_none()) {
            set(secret.bound.name.as_str(), secret.token.as_str().to_owned());
        }
        if let Some(proxy) = places.proxy {
            let url = proxy_url(session, places, proxy);
            let mut set_in_both_cases = |name: &str, value: &str| {
                set(name, value.to_owned());
                set(&name.to_ascii_lowercase(), value.to_owned());
            };
            for name in PROXY {
                set_in_both_cases(name, &url);
            }
            set_in_both_cases(EXCEPTIONS, NO_PROXY);
            set(NODE, "1".to_owned());
        }
        for name in BUNDLE {
            set(name, places.bundle.display().to_string());
        }
        set("NODE_EXTRA_CA_CERTS", places.ca.display().to_string());
        let java = java_options(places);
        if !java.is_empty() {
            set("JAVA_TOOL_OPTIONS", java);
        }
        Self { variables }
    }

    /// The variables that make clients trust the authority, and nothing else.
    #[must_use]
    pub fn trust(places: &Places) -> Self {
        let bundle = places.bundle.display().to_string();
        let replacing = BUNDLE.iter().map(|name| ((*name).to_owned(), bundle.clone()));
        let java = java_options(&Places { proxy: None, ..places.clone() });
        let adding = [
            ("NODE_EXTRA_CA_CERTS".to_owned(), places.ca.display().to_string()),
            ("JAVA_TOOL_OPTIONS".to_owned(), java),
        ];
        Self { variables: replacing.chain(adding).collect() }
    }

    /// Name and value of each variable, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Lines that a POSIX shell evaluates.
    #[must_use]
    pub fn shell(&self) -> String {
        let quoted = |value: &str| value.replace('\'', r"'\''");
        self.iter().map(|(name, value)| format!("export {name}='{}'\n", quoted(value))).collect()
    }

    /// Lines of a dotenv file.
    #[must_use]
    pub fn dotenv(&self) -> String {
        let quoted =
            |value: &str| value.replace('\\', r"\\").replace('"', "\\\"").replace('$', "\\$");
        self.iter().map(|(name, value)| format!("{name}=\"{}\"\n", quoted(value))).collect()
    }

    /// One JSON object.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(&self.variables).unwrap_or_default() + "\n"
    }
}

fn proxy_url(session: &Session, places: &Places, proxy: SocketAddr) -> String {
    let wanted = match places.credentials {
        Credentials::Always => true,
        Credentials::IfInjected => session.injects(),
        Credentials::Never => false,
    };
    if wanted {
        format!("http://{}:{}@{proxy}", session.id(), session.proxy_token().reveal())
    } else {
        format!("http://{proxy}")
    }
}

fn java_options(places: &Places) -> String {
    let proxy = places.proxy.map(|proxy| {
        let (host, port) = (proxy.ip(), proxy.port());
        format!(
            "-Dhttp.proxyHost={host} -Dhttp.proxyPort={port} -Dhttps.proxyHost={host} -Dhttps.proxyPort={port} -Dhttp.nonProxyHosts=localhost|127.*|[::1]"
        )
    });
    let store = places.java.as_ref().map(|store| {
        let store = store.display();
        format!("-Djavax.net.ssl.trustStore={store} -Djavax.net.ssl.trustStorePassword=changeit")
    });
    proxy.into_iter().chain(store).collect::<Vec<_>>().join(" ")
}
