//! The configuration as written → as meant, with every mistake at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::IgnoredAny;

use super::error::{ConfigError, Origin, quoted};
use super::written::{
    At, ListenerFields, PrivateFields, WrittenDenials, WrittenEgress, WrittenFile, WrittenFloor,
    WrittenListen, WrittenListener, WrittenPrivate, WrittenProxy, WrittenProxyProtocol,
    WrittenResolver, WrittenSource, WrittenUpstream,
};
use super::{
    AuditSink, Config, Denials, Dns, Egress, Listen, Listener, Overrides, Resolver, Upstream,
    UpstreamProxy,
};
use crate::host::{Destination, HostPattern};
use crate::policy::PrivateAccess;
use crate::secret::{SandboxId, SourceSpec};

const EXPLICIT: SocketAddr = loopback(3128);
const API: SocketAddr = loopback(3130);
/// The variable of the API's key where only a flag asks for the API.
const API_KEY: &str = "TOLLGATE_API_KEY";
/// How long a program that prints a key may take.
const KEY_TIMEOUT: Duration = Duration::from_secs(30);

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port)
}

pub(super) fn compile(
    file: &WrittenFile,
    overrides: &Overrides,
) -> Result<Config, Vec<ConfigError>> {
    let folder = file.path.as_deref().and_then(Path::parent).unwrap_or_else(|| Path::new(""));
    let mut compiler = Compiler { file, folder, errors: Vec::new() };
    let config = compiler.config(overrides);
    let mut errors = compiler.errors;
    errors.sort_by(|one, other| one.origin.cmp(&other.origin));
    if errors.is_empty() { Ok(config) } else { Err(errors) }
}

struct Compiler<'a> {
    file: &'a WrittenFile,
    /// What relative paths are relative to.
    folder: &'a Path,
    errors: Vec<ConfigError>,
}

/// An address with the place where it is written, for the checks between addresses.
type Written<T> = (T, Origin);

impl Compiler<'_> {
    fn config(&mut self, overrides: &Overrides) -> Config {
        let written = &self.file.written;
        self.not_carried("storage", written.storage.as_ref(), "secrets are kept by their sources");
        let policies = match &written.policies {
            _ if !overrides.policies.is_empty() => overrides.policies.clone(),
            None => vec![self.folder.join("policies")],
            Some(paths) => paths.iter().filter_map(|path| self.path("policies", path)).collect(),
        };
        let keys = written.api.as_ref().and_then(|api| api.keys.as_deref()).unwrap_or_default();
        let mut api_keys: Vec<_> =
            keys.iter().filter_map(|key| self.source("api.keys", key)).collect();
        if keys.is_empty() && overrides.api.is_some() {
            api_keys.push(SourceSpec::Env(API_KEY.to_owned()));
        }
        let has_keys = !keys.is_empty() || overrides.api.is_some();
        let no_listen = WrittenListen::default();
        let dns = written
            .dns
            .as_ref()
            .map_or_else(Dns::default, |dns| dns.compile(self.file, &mut self.errors));
        let listen = written.listen.as_ref().unwrap_or(&no_listen);
        let listen = self.listen(listen, dns, has_keys, overrides);
        let limits = written.limits.as_ref();
        Config {
            file: self.file.path.clone(),
            policies,
            sandbox: overrides
                .sandbox
                .as_ref()
                .and_then(|id| self.read::<SandboxId>(Origin::Flag("--sandbox"), "--sandbox", id)),
            listen,
            ca_dir: self.ca_dir(overrides),
            trust_seen_in: None,
            seal_key: self.seal_key(),
            egress: written.egress.as_ref().map_or_else(Egress::default, |e| self.egress(e)),
            dns,
            upstream: written
                .upstream
                .as_ref()
                .map_or_else(Upstream::default, |u| self.upstream(u)),
            api_keys,
            audit: self.audit(overrides),
            denials: match written.denials.as_ref().map(At::value) {
                None | Some(WrittenDenials::Connect) => Denials::Connect,
                Some(WrittenDenials::Inside) => Denials::Inside,
            },
            limits: limits
                .map_or_else(Default::default, |l| l.compile(self.file, &mut self.errors)),
        }
    }

    fn ca_dir(&mut self, overrides: &Overrides) -> PathBuf {
        let written = self.file.written.ca.as_ref().and_then(|ca| ca.dir.as_ref());
        let written = written.and_then(|dir| self.path("ca.dir", dir));
        let default = || self.folder.join("certs");
        overrides.ca_dir.clone().or(written).unwrap_or_else(default)
    }

    fn seal_key(&mut self) -> Option<SourceSpec> {
        let key = self.file.written.seal.as_ref()?.key.as_ref()?;
        let fields = &key.value().0;
        let is_default = fields.env.is_none() && fields.file.is_none() && fields.command.is_none();
        if is_default { None } else { self.source("seal.key", key) }
    }

    fn audit(&mut self, overrides: &Overrides) -> AuditSink {
        let sink = |path: PathBuf| {
            if path.as_os_str() == "-" { AuditSink::Stdout } else { AuditSink::File(path) }
        };
        if let Some(path) = &overrides.audit {
            return sink(path.clone());
        }
        match self.file.written.audit.as_ref().and_then(|audit| audit.file.as_ref()) {
            Some(at) if at.value() != "-" => {
                self.path("audit.file", at).map_or(AuditSink::Stdout, AuditSink::File)
            }
            _ => AuditSink::Stdout,
        }
    }

    fn egress(&mut self, written: &WrittenEgress) -> Egress {
        let deny = written.deny.as_deref().unwrap_or_default();
        let private = written.allow_private.as_deref().unwrap_or_default();
        let entries = private.iter().filter_map(|entry| self.private(entry)).collect();
        let nat64 = written.nat64.as_deref().unwrap_or_default();
        let nat64 = nat64.iter().filter_map(|at| self.read_at("egress.nat64", at)).collect();
        Egress {
            closed: match written.default.as_ref().map(At::value) {
                None | Some(WrittenFloor::Allow) => false,
                Some(WrittenFloor::Deny) => true,
            },
            deny: deny.iter().filter_map(|at| self.read_at("egress.deny", at)).collect(),
            private: Arc::new(PrivateAccess { entries, nat64 }),
        }
    }

    fn private(&mut self, entry: &At<WrittenPrivate>) -> Option<(IpNet, Option<Vec<HostPattern>>)> {
        match entry.value() {
            WrittenPrivate::Network(cidr) => {
                Some((self.network("egress.allowPrivate", self.file.origin(entry), cidr)?, None))
            }
            WrittenPrivate::Entry(PrivateFields { cidr, hosts }) => {
                let network =
                    self.network("egress.allowPrivate", self.file.origin(cidr), cidr.value())?;
                let Some(hosts) = hosts else {
                    return Some((network, None));
                };
                if hosts.is_empty() {
                    let message = "egress.allowPrivate: `hosts` is empty";
                    let error = ConfigError::new(self.file.origin(entry), message);
                    self.errors.push(
                        error.hint("list hosts, or leave `hosts` out to mean every listed host"),
                    );
                }
                let key = "egress.allowPrivate";
                Some((network, Some(hosts.iter().filter_map(|at| self.read_at(key, at)).collect())))
            }
        }
    }

    fn network(&mut self, key: &str, origin: Origin, text: &str) -> Option<IpNet> {
        let shown = quoted(text);
        let hint = match text.parse::<IpNet>() {
            Ok(network) if network.addr() == network.network() => return Some(network),
            Ok(network) => format!("bits behind the prefix are set; write `{}`", network.trunc()),
            Err(_) => {
                "write a network such as `10.0.0.0/8`, or `192.0.2.1/32` for one address".to_owned()
            }
        };
        let message = format!("{key}: `{shown}` is not a network");
        self.errors.push(ConfigError::new(origin, message).hint(hint));
        None
    }

    fn upstream(&mut self, written: &WrittenUpstream) -> Upstream {
        let roots = written.roots.as_deref().unwrap_or_default();
        let mut connect_to = BTreeMap::new();
        for (from, to) in written.connect_to.iter().flat_map(|pairs| &pairs.0) {
            let destination = self.destination(from);
            let address = self.dialled("upstream.connectTo", to);
            let (Some(destination), Some(address)) = (destination, address) else {
                continue;
            };
            if connect_to.insert(destination, address).is_some() {
                let message =
                    format!("upstream.connectTo: `{}` stands here twice", quoted(from.value()));
                self.errors
                    .push(ConfigError::new(self.file.origin(from), message).hint("keep one"));
            }
        }
        Upstream {
            roots: roots.iter().filter_map(|at| self.path("upstream.roots", at)).collect(),
            connect_to,
            resolver: written.resolver.as_ref().map_or(Resolver::System, |at| self.resolver(at)),
            mark: written.mark.as_ref().and_then(|at| self.mark(at)),
            proxy: written.proxy.as_ref().and_then(|proxy| self.proxy(proxy)),
        }
    }

    fn mark(&mut self, at: &At<u32>) -> Option<u32> {
        if *at.value() == 0 {
            let error =
                ConfigError::new(self.file.origin(at), "upstream.mark: 0 is what every socket has");
            self.errors.push(error.hint("write another number, or leave it out"));
            return None;
        }
        Some(*at.value())
    }

    fn proxy(&mut self, written: &WrittenProxy) -> Option<UpstreamProxy> {
        let credentials = written.credentials.as_ref();
        let credentials = credentials.and_then(|at| self.source("upstream.proxy.credentials", at));
        let direct = written.no_proxy.as_deref().unwrap_or_default();
        let direct =
            direct.iter().filter_map(|at| self.read_at("upstream.proxy.noProxy", at)).collect();
        let url = written.url.value();
        let authority =
            url.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        let hint = match authority.map(Destination::parse_connect) {
            Some(Ok(address)) => return Some(UpstreamProxy { address, credentials, direct }),
            // The text is not shown: it may hold a password.
            Some(Err(_)) if url.contains('@') => {
                "name its credentials in `credentials`, never here"
            }
            None if url.starts_with("https:") => {
                "this version speaks plain HTTP to a proxy: write `http://`"
            }
            Some(Err(_)) | None => {
                "write the scheme, the host and the port: `http://proxy.corp.example:3128`"
            }
        };
        let message = "upstream.proxy.url: this is not the address of a proxy";
        self.errors.push(ConfigError::new(self.file.origin(&written.url), message).hint(hint));
        None
    }

    fn destination(&mut self, at: &At<String>) -> Option<Destination> {
        match Destination::parse_connect(at.value()) {
            Ok(destination) => Some(destination),
            Err(error) => {
                let message = format!("upstream.connectTo: `{}`: {error}", quoted(at.value()));
                let error = ConfigError::new(self.file.origin(at), message);
                self.errors
                    .push(error.hint("write a host and a port, such as `api.example.com:443`"));
                None
            }
        }
    }

    fn resolver(&mut self, at: &At<WrittenResolver>) -> Resolver {
        let hint = "write `system`, or a list of addresses such as `[192.0.2.53:53]`";
        match at.value() {
            WrittenResolver::Named(name) if name == "system" => return Resolver::System,
            WrittenResolver::Servers(servers) if !servers.is_empty() => {
                let key = "upstream.resolver";
                return Resolver::Servers(
                    servers.iter().filter_map(|at| self.dialled(key, at)).collect(),
                );
            }
            WrittenResolver::Named(_) | WrittenResolver::Servers(_) => {}
        }
        let message = "upstream.resolver: this names no resolver";
        self.errors.push(ConfigError::new(self.file.origin(at), message).hint(hint));
        Resolver::System
    }

    fn listen(
        &mut self,
        written: &WrittenListen,
        answers: Dns,
        has_keys: bool,
        overrides: &Overrides,
    ) -> Listen {
        let non_local = written.non_local.unwrap_or(false) || overrides.listen_non_local;
        let transparent = self.listeners("listen.transparent", written.transparent.as_deref());
        let tproxy = self.listeners("listen.tproxy", written.tproxy.as_deref());
        let redirected = !(transparent.is_empty() && tproxy.is_empty());
        let explicit = self.explicit(written, overrides, redirected);
        let dns = self.dns(written, overrides);
        self.check_sinks(&dns, answers);
        for (key, listeners) in [
            ("listen.explicit", &explicit),
            ("listen.transparent", &transparent),
            ("listen.tproxy", &tproxy),
            ("listen.dns", &dns),
        ] {
            self.check_local(key, listeners, non_local);
        }
        let api =
            self.operators("listen.api", written.api.as_ref(), "--api", overrides.api.as_ref());
        if let (Some((_, origin)), false) = (&api, has_keys) {
            let message = "listen.api: an API without a key does not start";
            let error = ConfigError::new(origin.clone(), message);
            self.errors.push(error.hint("name one: `api: { keys: [{ env: TOLLGATE_API_KEY }] }`"));
        }
        let default = || (API, Origin::Flag("listen.api (default)"));
        let api = api.or_else(|| has_keys.then(default));
        let metrics = overrides.metrics.as_ref();
        let metrics =
            self.operators("listen.metrics", written.metrics.as_ref(), "--metrics", metrics);
        let listeners = [&explicit, &transparent, &tproxy, &dns].into_iter().flatten();
        let addresses: Vec<Written<SocketAddr>> = listeners
            .map(|(listener, origin)| (listener.address, origin.clone()))
            .chain(api.clone())
            .chain(metrics.clone())
            .collect();
        self.check_distinct(addresses.iter());
        let without_origin = |listeners: Vec<Written<Listener>>| {
            listeners.into_iter().map(|(listener, _)| listener).collect()
        };
        Listen {
            explicit: without_origin(explicit),
            transparent: without_origin(transparent),
            tproxy: without_origin(tproxy),
            balancers: self.balancers(written),
            dns: without_origin(dns),
            api: api.map(|(address, _)| address),
            metrics: metrics.map(|(address, _)| address),
        }
    }

    /// By default on loopback, unless all connections are redirected anyway.
    fn explicit(
        &mut self,
        written: &WrittenListen,
        overrides: &Overrides,
        redirected: bool,
    ) -> Vec<Written<Listener>> {
        if !overrides.listen.is_empty() {
            return self.flag_listeners("--listen", &overrides.listen);
        }
        match &written.explicit {
            Some(list) => self.listeners("listen.explicit", Some(list)),
            None if redirected => Vec::new(),
            None => {
                vec![(Listener::at(EXPLICIT), Origin::Flag("listen.explicit (default)"))]
            }
        }
    }

    fn listeners(
        &mut self,
        key: &'static str,
        written: Option<&[At<WrittenListener>]>,
    ) -> Vec<Written<Listener>> {
        written.into_iter().flatten().filter_map(|at| self.listener(key, at)).collect()
    }

    fn listener(
        &mut self,
        key: &'static str,
        at: &At<WrittenListener>,
    ) -> Option<Written<Listener>> {
        let origin = self.file.origin(at);
        let listener = match at.value() {
            WrittenListener::Address(text) => {
                Listener::at(self.address(origin.clone(), key, text)?)
            }
            WrittenListener::Entry(ListenerFields { address, sandbox }) => {
                let address = self.address(self.file.origin(address), key, address.value());
                let sandbox = sandbox.as_ref().map(|id| self.read_at::<SandboxId>(key, id));
                Listener {
                    address: address?,
                    sandbox: sandbox.map_or(Some(None), |id| id.map(Some))?,
                }
            }
        };
        Some((listener, origin))
    }

    fn dns(&mut self, written: &WrittenListen, overrides: &Overrides) -> Vec<Written<Listener>> {
        if !overrides.dns.is_empty() {
            return self.flag_listeners("--dns", &overrides.dns);
        }
        self.listeners("listen.dns", written.dns.as_deref())
    }

    /// Without a sink of its own, a listener answers with its address; the unspecified one leads nowhere.
    fn check_sinks(&mut self, listeners: &[Written<Listener>], dns: Dns) {
        let nowhere = |listener: &Listener| listener.address.ip().is_unspecified();
        for (Listener { address, .. }, origin) in
            listeners.iter().filter(|(listener, _)| dns.sinks.is_none() && nowhere(listener))
        {
            let message = format!("listen.dns: {address} is no address that names could lead to");
            let hint = "set `dns.sink` to the addresses at which sandboxes reach Tollgate, or listen on one of them";
            self.errors.push(ConfigError::new(origin.clone(), message).hint(hint));
        }
    }

    fn flag_listeners(&mut self, flag: &'static str, texts: &[String]) -> Vec<Written<Listener>> {
        let origin = Origin::Flag(flag);
        let read = |text: &String| {
            let address = self.address(origin.clone(), flag, text)?;
            Some((Listener::at(address), origin.clone()))
        };
        texts.iter().filter_map(read).collect()
    }

    fn balancers(&mut self, written: &WrittenListen) -> Vec<IpNet> {
        const KEY: &str = "listen.proxyProtocol";
        let Some(WrittenProxyProtocol { from }) = &written.proxy_protocol else {
            return Vec::new();
        };
        let networks: Vec<_> = from
            .iter()
            .filter_map(|at| {
                let text = at.value();
                let single = text.parse::<std::net::IpAddr>().map(IpNet::from);
                single.map_or_else(|_error| self.network(KEY, self.file.origin(at), text), Some)
            })
            .collect();
        if let Some(all) = networks.iter().position(|network| network.prefix_len() == 0) {
            let origin =
                from.get(all).map_or_else(|| self.file.place(0, 0), |at| self.file.origin(at));
            let message = format!("{KEY}: everybody could pass for everybody");
            self.errors.push(ConfigError::new(origin, message).hint("name the load balancers"));
        }
        networks
    }

    fn check_local(&mut self, key: &'static str, listeners: &[Written<Listener>], non_local: bool) {
        let outside = listeners.iter().filter(|(listener, _)| !listener.address.ip().is_loopback());
        for (Listener { address, .. }, origin) in outside.filter(|_| !non_local) {
            let message = format!("{key}: {address} can be reached from other machines");
            let hint = "set `listen.nonLocal: true` if that is wanted, or listen on 127.0.0.1";
            self.errors.push(ConfigError::new(origin.clone(), message).hint(hint));
        }
    }

    /// A listener for the operator alone: never beyond loopback.
    fn operators(
        &mut self,
        key: &'static str,
        written: Option<&At<String>>,
        flag: &'static str,
        overriding: Option<&String>,
    ) -> Option<Written<SocketAddr>> {
        let (text, origin) = match (overriding, written) {
            (Some(text), _) => (text, Origin::Flag(flag)),
            (None, Some(at)) => (at.value(), self.file.origin(at)),
            (None, None) => return None,
        };
        if text.starts_with("unix:") {
            let error =
                ConfigError::new(origin, format!("{key}: this version has no Unix sockets"));
            self.errors.push(error.hint("write an address on loopback, such as `127.0.0.1:3130`"));
            return None;
        }
        let address = self.address(origin.clone(), key, text)?;
        if !address.ip().is_loopback() {
            let message =
                format!("{key}: {address} could be reached from a sandbox or another machine");
            let error = ConfigError::new(origin.clone(), message);
            self.errors
                .push(error.hint("listen on loopback, such as 127.0.0.1, and forward from there"));
        }
        Some((address, origin))
    }

    /// Port 0 is a free port, so it may stand anywhere.
    fn check_distinct<'w>(&mut self, all: impl Iterator<Item = &'w Written<SocketAddr>>) {
        let mut seen: BTreeSet<SocketAddr> = BTreeSet::new();
        for (address, origin) in all.filter(|(address, _)| address.port() != 0) {
            let canonical = SocketAddr::new(address.ip().to_canonical(), address.port());
            let overlaps = |other: &SocketAddr| {
                let everywhere = other.ip().is_unspecified() || canonical.ip().is_unspecified();
                other.port() == canonical.port() && (everywhere || other.ip() == canonical.ip())
            };
            if seen.iter().any(overlaps) {
                let message = format!("{address} is listened on twice");
                let error = ConfigError::new(origin.clone(), message);
                self.errors.push(error.hint("give each listener its own port"));
            }
            seen.insert(canonical);
        }
    }

    fn dialled(&mut self, key: &str, at: &At<String>) -> Option<SocketAddr> {
        let origin = self.file.origin(at);
        let address = self.address(origin.clone(), key, at.value())?;
        if address.port() == 0 {
            let message = format!("{key}: port 0 cannot be connected to");
            self.errors.push(ConfigError::new(origin, message).hint("name the port"));
        }
        Some(address)
    }

    fn address(&mut self, origin: Origin, key: &str, text: &str) -> Option<SocketAddr> {
        let scoped =
            |address: &SocketAddr| matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0);
        match text.parse::<SocketAddr>() {
            Ok(address) if !scoped(&address) => Some(address),
            _ => {
                let message = format!("{key}: `{}` is not an address with a port", quoted(text));
                let hint =
                    "write an IP address and a port, such as `127.0.0.1:3128` or `[::1]:3128`";
                self.errors.push(ConfigError::new(origin, message).hint(hint));
                None
            }
        }
    }

    fn source(&mut self, key: &str, at: &At<WrittenSource>) -> Option<SourceSpec> {
        let fields = &at.value().0;
        let named = [fields.env.is_some(), fields.file.is_some(), fields.command.is_some()];
        if named.into_iter().filter(|&is_named| is_named).count() != 1 {
            let message = format!("{key}: a key has exactly one source");
            let error = ConfigError::new(self.file.origin(at), message);
            self.errors.push(error.hint("write one of `env`, `file` and `command`"));
            return None;
        }
        if let Some(name) = &fields.env {
            return self.variable(key, name);
        }
        if let Some(path) = &fields.file {
            return self.path(key, path).map(SourceSpec::File);
        }
        let argv: Vec<String> =
            fields.command.iter().flatten().map(|word| word.value().clone()).collect();
        if argv.first().is_none_or(String::is_empty) || argv.iter().any(|word| word.contains('\0'))
        {
            let message = format!("{key}: `command` names no program");
            let error = ConfigError::new(self.file.origin(at), message);
            self.errors.push(error.hint("write the program and its arguments: `[op, read, NAME]`"));
            return None;
        }
        Some(SourceSpec::Command { argv, refresh: None, timeout: KEY_TIMEOUT })
    }

    fn variable(&mut self, key: &str, name: &At<String>) -> Option<SourceSpec> {
        let text = name.value();
        if text.is_empty() || text.contains(['=', '\0', ' ', '$']) {
            let message = format!("{key}: `{}` is not the name of a variable", quoted(text));
            let error = ConfigError::new(self.file.origin(name), message);
            self.errors.push(error.hint("write the name alone, such as `TOLLGATE_API_KEY`"));
            return None;
        }
        Some(SourceSpec::Env(text.clone()))
    }

    fn path(&mut self, key: &str, at: &At<String>) -> Option<PathBuf> {
        let text = at.value();
        if text.is_empty() || text.contains('\0') {
            let error = ConfigError::new(self.file.origin(at), format!("{key}: this is no path"));
            self.errors.push(error.hint("write a path; relative ones start at this file's folder"));
            return None;
        }
        Some(self.folder.join(text))
    }

    fn not_carried(&mut self, key: &str, at: Option<&At<IgnoredAny>>, hint: &str) {
        if let Some(at) = at {
            let message = format!("{key}: this version does not carry it");
            self.errors.push(ConfigError::new(self.file.origin(at), message).hint(hint));
        }
    }

    fn read_at<T: FromStr<Err: Display>>(&mut self, key: &str, at: &At<String>) -> Option<T> {
        self.read(self.file.origin(at), key, at.value())
    }

    fn read<T: FromStr<Err: Display>>(
        &mut self,
        origin: Origin,
        key: &str,
        text: &str,
    ) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                let message = format!("{key}: `{}` cannot be used", quoted(text));
                self.errors.push(ConfigError::new(origin, message).hint(error.to_string()));
                None
            }
        }
    }
}
