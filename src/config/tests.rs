use std::time::Duration;

use super::*;
use crate::dns::{Denied, Settings};

/// Compiles a text as if it were `/etc/tollgate/tollgate.yaml`.
pub(super) fn load(text: &str) -> Result<Config, Vec<ConfigError>> {
    load_with(text, &Overrides::default())
}

fn load_with(text: &str, overrides: &Overrides) -> Result<Config, Vec<ConfigError>> {
    let path = Path::new("/etc/tollgate/tollgate.yaml");
    let written = read::parse(path, text).map_err(|error| vec![error])?;
    compile::compile(&written, overrides)
}

fn errors(text: &str) -> Vec<String> {
    match load(text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// Everything that the file may say, once.
const FULL: &str = r#"
policies: [policies, /srv/extra.yaml]
listen:
  explicit: ["127.0.0.1:3128", "[::1]:3128"]
  api: 127.0.0.1:3130
  dns: ["127.0.0.1:5353", { address: "[::1]:5353", sandbox: sb-1 }]
  transparent: ["127.0.0.1:3129", { address: "[::1]:3129", sandbox: sb-dev }]
  tproxy: ["127.0.0.1:3131"]
  proxyProtocol: { from: [10.0.0.2, "fd00::/64"] }
  metrics: 127.0.0.1:9464
  nonLocal: false
dns:
  sink: [10.20.0.1, "fd00::1"]
  denied: refused
ca: { dir: certs }
seal: { key: { file: seal.key } }
egress:
  default: deny
  deny: ["*.internal.example", "169.254.169.254"]
  allowPrivate:
    - 127.0.0.0/8
    - cidr: 10.0.0.0/8
      hosts: ["*.corp.example"]
  nat64: ["64:ff9b::/96"]
upstream:
  roots: [extra.pem]
  connectTo:
    "API.example.com:443": 127.0.0.1:8443
  resolver: [192.0.2.53:53]
  mark: 0x10
  proxy:
    url: http://proxy.corp.example:3128
    credentials: { env: PROXY_CREDENTIALS }
    noProxy: ["*.corp.example"]
api:
  keys:
    - env: TOLLGATE_API_KEY
    - command: [op, read, api-key]
audit: { file: audit.jsonl }
denials: inside
limits:
  bufferedBody: 2MiB
  connections: 5
  idleTimeout: 90s
"#;

#[test]
fn a_full_file_means_what_it_says() {
    let config = load(FULL).unwrap();
    let under = |name: &str| Path::new("/etc/tollgate").join(name);
    assert_eq!(config.policies, [under("policies"), PathBuf::from("/srv/extra.yaml")]);
    assert_eq!(config.listen.explicit.len(), 2);
    assert_eq!(config.listen.transparent[0], Listener::at("127.0.0.1:3129".parse().unwrap()));
    assert_eq!(config.listen.transparent[1].sandbox.as_ref().unwrap().as_str(), "sb-dev");
    assert_eq!(config.listen.tproxy, [Listener::at("127.0.0.1:3131".parse().unwrap())]);
    assert_eq!(config.listen.balancers.len(), 2);
    assert_eq!(config.upstream.mark, Some(16));
    assert_eq!(config.listen.api.unwrap().port(), 3130);
    assert_eq!(config.listen.metrics.unwrap().port(), 9464);
    assert_eq!(config.listen.dns[0], Listener::at("127.0.0.1:5353".parse().unwrap()));
    assert_eq!(config.listen.dns[1].sandbox.as_ref().unwrap().as_str(), "sb-1");
    let Settings { sinks, denied } = config.dns.settings([127, 0, 0, 1].into());
    assert_eq!((sinks.v4, sinks.v6), (Some([10, 20, 0, 1].into()), "fd00::1".parse().ok()));
    assert_eq!(denied, Denied::Refused);
    assert_eq!(config.ca_dir, under("certs"));
    assert_eq!(config.seal_key, Some(SourceSpec::File(under("seal.key"))));
    assert!(config.operator_rules().closed);
    assert_eq!(config.egress.deny.len(), 2);
    assert_eq!(config.egress.private.entries.len(), 2);
    assert!(config.egress.private.entries[1].1.is_some());
    assert_eq!(config.upstream.roots, [under("extra.pem")]);
    let api = Destination::parse_connect("api.example.com:443").unwrap();
    assert_eq!(config.upstream.connect_to[&api].port(), 8443);
    assert_eq!(config.upstream.resolver, Resolver::Servers(vec!["192.0.2.53:53".parse().unwrap()]));
    let proxy = config.upstream.proxy.unwrap();
    assert_eq!(proxy.address.to_string(), "proxy.corp.example:3128");
    assert_eq!(proxy.credentials, Some(SourceSpec::Env("PROXY_CREDENTIALS".to_owned())));
    assert_eq!(proxy.direct.len(), 1);
    assert_eq!(config.api_keys.len(), 2);
    assert_eq!(config.audit, AuditSink::File(under("audit.jsonl")));
    assert_eq!(config.denials, Denials::Inside);
    assert_eq!(config.limits.buffered_body, ByteSize::mib(2));
    assert_eq!(config.limits.connections, 5);
    assert_eq!(config.limits.idle_timeout, Duration::from_secs(90));
    assert_eq!(config.limits.headers, Limits::default().headers);
}

#[test]
fn every_key_is_optional() {
    for text in
        ["", "# nothing\n\n", "{}", "listen: {}\negress: {}\nlimits: {}\nseal: { key: {} }\n"]
    {
        let config = load(text).unwrap();
        assert_eq!(config.policies, [PathBuf::from("/etc/tollgate/policies")]);
        assert_eq!(config.listen.explicit, [Listener::at("127.0.0.1:3128".parse().unwrap())]);
        assert_eq!((config.listen.api, config.listen.metrics), (None, None));
        assert!(!config.operator_rules().closed);
        assert_eq!(config.seal_key, None);
        assert_eq!(config.audit, AuditSink::Stdout);
        assert_eq!(config.limits, Limits::default());
    }
}

#[test]
fn an_unknown_key_is_refused_at_every_level_with_its_place() {
    let lines: Vec<&str> = FULL.lines().collect();
    let mut planted = 0;
    for (at, line) in lines.iter().enumerate() {
        let key = line.trim_start().trim_start_matches("- ");
        let Some((name, _)) = key.split_once(": ").or_else(|| key.split_once(':')) else {
            continue;
        };
        if name.is_empty() || name.starts_with('"') {
            continue;
        }
        let indent = line.len() - key.len();
        let mut text: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        text[at] = line.replace(key, &format!("surprise: 1\n{}{key}", " ".repeat(indent)));
        let text = text.join("\n");
        let found = errors(&text);
        let place = format!(
            "/etc/tollgate/tollgate.yaml:{}:{}: error: there is no key `surprise`",
            at + 1,
            indent + 1
        );
        assert!(found[0].starts_with(&place), "{found:?} in\n{text}");
        planted += 1;
    }
    assert!(planted > 20, "{planted}");
    for text in
        ["ca: { dir: x, surprise: 1 }", "seal: { key: { surprise: 1 } }", "audit: { surprise: 1 }"]
    {
        assert!(errors(text)[0].contains("there is no key `surprise`"), "{text}");
    }
}

#[test]
fn mistakes_are_refused_with_place_and_hint() {
    for (text, place, message) in [
        ("policies: [a]\npolicies: [b]", "2:1", "duplicate"),
        ("limits:\n  fields: 100\n  fields: 10", "3:3", "duplicate"),
        ("limit: {}", "1:1", "did you mean `limits`?"),
        ("limits: { buffered_body: 1MiB }", "1:11", "did you mean `bufferedBody`?"),
        ("limits:\n  idleTimeout: 10", "2:16", "needs one of the units `ms`"),
        ("limits:\n  idleTimeout: 0", "2:16", "zero is not a limit"),
        ("limits:\n  idleTimeout: 0s", "2:16", "zero is not a limit"),
        ("limits:\n  idleTimeout: -1", "2:16", "whole number above zero"),
        ("limits:\n  idleTimeout: 1e99", "2:16", "units"),
        ("limits:\n  idleTimeout: 99999999h", "2:16", "lies between"),
        ("limits:\n  idleTimeout: 18446744073709551616s", "2:16", "too large"),
        ("limits:\n  headers: 65536", "2:12", "needs one of the units `B`"),
        ("limits:\n  headers: 10s", "2:12", "needs one of the units `B`"),
        ("limits:\n  headers: 1B", "2:12", "lies between 1KiB and 1MiB"),
        ("limits:\n  fields: 100B", "2:11", "has no unit"),
        ("limits:\n  fields: true", "2:11", "whole number"),
        ("limits:\n  fields: [1]", "2:11", ""),
        ("limits: 3", "1:9", ""),
        ("listen: [127.0.0.1:1]", "1:9", ""),
        ("listen: { explicit: [':3128'] }", "1:22", "not an address with a port"),
        ("listen: { explicit: [localhost:3128] }", "1:22", "not an address with a port"),
        ("listen: { explicit: ['127.0.0.1:65536'] }", "1:22", "not an address with a port"),
        ("listen: { explicit: ['0.0.0.0:3128'] }", "1:22", "nonLocal"),
        ("listen: { explicit: ['[::]:53'] }", "1:22", "nonLocal"),
        ("listen: { explicit: ['[::ffff:127.0.0.1]:53'] }", "1:22", "nonLocal"),
        ("listen: { explicit: ['10.0.0.1:3128'] }", "1:22", "nonLocal"),
        ("listen: { explicit: ['127.0.0.1:1', '127.0.0.1:1'] }", "1:37", "twice"),
        ("listen: { nonLocal: true, explicit: ['0.0.0.0:1', '127.0.0.1:1'] }", "1:51", "twice"),
        ("listen: { metrics: '127.0.0.1:3128' }", "1:20", "twice"),
        ("listen: { nonLocal: true, metrics: '0.0.0.0:9464' }", "1:36", "loopback"),
        ("listen: { api: '127.0.0.1:3130' }", "1:16", "without a key does not start"),
        ("listen: { api: 'unix:/run/x.sock' }", "1:16", "no Unix sockets"),
        ("listen: { dns: ['10.0.0.1:53'] }", "1:17", "can be reached from other machines"),
        ("listen: { dns: ['127.0.0.1:3128'] }", "1:17", "listened on twice"),
        (
            "listen: { dns: ['0.0.0.0:53'], nonLocal: true }",
            "",
            "no address that names could lead to",
        ),
        ("dns: { sink: [10.0.0.1, 10.0.0.2] }", "1:25", "second address of its family"),
        ("dns: { sink: ['::ffff:10.0.0.1'] }", "1:15", "is an IPv4 address"),
        ("dns: { sink: [224.0.0.1] }", "1:15", "not the address of one host"),
        ("dns: { sink: [gateway] }", "1:15", "not an IP address"),
        ("egress: { nat64: ['64:ff9b::/97'] }", "1:19", "96 bits"),
        ("dns: { denied: nxdomain }", "1:16", "nxdomain"),
        ("listen: { proxyProtocol: { from: [10.0.0.1/8] } }", "1:35", "10.0.0.0/8"),
        ("listen: { proxyProtocol: { from: ['::/0'] } }", "1:35", "everybody"),
        ("upstream: { mark: 0 }", "1:19", "every socket"),
        ("listen: { transparent: ['0.0.0.0:1'] }", "1:25", "from other machines"),
        ("listen: { tproxy: [{ sandbox: a }] }", "1:22", "address"),
        ("listen: { transparent: [{ address: x }] }", "1:36", "not an address"),
        ("listen: { transparent: ['[::1]:3128'], explicit: ['[::1]:3128'] }", "1:25", "twice"),
        ("listen: { nonLocal: yes }", "1:21", ""),
        ("storage: { url: 'sqlite:x' }", "1:10", "does not carry it"),
        ("api: { keys: [{ }] }", "1:15", "exactly one source"),
        ("api: { keys: [{ env: A, file: b }] }", "1:15", "exactly one source"),
        ("api: { keys: [{ command: [] }] }", "1:15", "names no program"),
        ("api: { keys: [{ env: $A }] }", "1:22", "name of a variable"),
        ("api: { keys: [{ value: k }] }", "1:17", "no key `value`"),
        ("seal: { key: { env: A, file: b } }", "1:14", "exactly one source"),
        ("egress: { default: maybe }", "1:20", "write `allow` or `deny`"),
        ("denials: both", "1:10", "write `connect` or `inside`"),
        ("egress: { deny: ['http://a.example/'] }", "1:18", "leave out scheme and path"),
        ("egress: { allowPrivate: [10.0.0.1/8] }", "1:26", "write `10.0.0.0/8`"),
        ("egress: { allowPrivate: [10.0.0.1] }", "1:26", "is not a network"),
        ("egress: { allowPrivate: [{ cidr: 10.0.0.0/8, hosts: [] }] }", "1:26", "`hosts` is empty"),
        ("egress: { allowPrivate: [{ hosts: [a.example] }] }", "1:28", "`cidr` is missing"),
        (
            "egress: { allowPrivate: [{ cidr: 10.0.0.0/8, hosts: ['a.*'] }] }",
            "1:54",
            "cannot be used",
        ),
        ("upstream: { connectTo: { a.example: '127.0.0.1:1' } }", "1:26", "host and a port"),
        ("upstream: { connectTo: { 'a.example:443': 'b.example:1' } }", "1:43", "not an address"),
        ("upstream: { connectTo: { 'a.example:443': '127.0.0.1:0' } }", "1:43", "port 0"),
        (
            "upstream: { connectTo: { 'a.example:1': '127.0.0.1:1', 'A.example:1': '127.0.0.1:2' } }",
            "1:56",
            "twice",
        ),
        ("upstream: { resolver: quad9 }", "1:23", "write `system`"),
        ("upstream: { resolver: [] }", "1:23", "write `system`"),
        ("upstream: { roots: [''] }", "1:21", "no path"),
        ("upstream: { proxy: { url: 'proxy.example:1' } }", "1:27", "write the scheme"),
        ("upstream: { proxy: { url: 'http://proxy.example' } }", "1:27", "and the port"),
        ("upstream: { proxy: { url: 'http://u:p@proxy.example:1' } }", "1:27", "in `credentials`"),
        ("upstream: { proxy: { url: 'https://proxy.example:1' } }", "1:27", "plain HTTP"),
        ("upstream: { proxy: {} }", "1:20", "url"),
        ("audit: { file: '' }", "1:16", "no path"),
        ("audit: &a { file: x }\nca: *a", "2:5", ""),
        ("x: &x {}\n<<: *x", "1:1", ""),
        ("limits: { fields: 1", "", ""),
        ("{}\n---\n{}", "", ""),
    ] {
        let found = errors(text);
        let place = format!("/etc/tollgate/tollgate.yaml:{place}");
        assert!(found[0].starts_with(&place) && found[0].contains(message), "{text}\n→ {found:?}");
    }
}

#[test]
fn every_mistake_of_meaning_is_reported_at_once_in_order() {
    let found = errors(
        "egress: { deny: ['a b'] }\nlimits: { fields: 0 }\ndenials: connect\nlisten: { api: 'x' }",
    );
    let lines: Vec<_> = found.iter().map(|error| error.split(':').nth(1).unwrap()).collect();
    assert_eq!(lines, ["1", "2", "4"], "{found:?}");
}

#[test]
fn a_key_that_is_written_down_is_not_repeated() {
    for text in [
        "api: { keys: [sk-live-1234567890] }",
        "seal: { key: sk-live-1234567890 }",
        "api: { keys: [{ env: sk-live-1234567890, file: x }] }",
        "api: sk-live-1234567890",
        "upstream: { proxy: { url: 'http://user:sk-live-1234567890@proxy.example:1' } }",
        "api: { keys: sk-live-1234567890 }",
    ] {
        let found = errors(text);
        assert!(!found[0].contains("1234567890"), "{found:?}");
    }
}

#[test]
fn the_api_listens_only_with_a_key() {
    let key = "api: { keys: [{ env: K }] }";
    assert_eq!(load(key).unwrap().listen.api, Some("127.0.0.1:3130".parse().unwrap()));
    let overrides = Overrides { api: Some("127.0.0.1:0".to_owned()), ..Overrides::default() };
    let config = load_with("", &overrides).unwrap();
    assert_eq!(config.api_keys, [SourceSpec::Env("TOLLGATE_API_KEY".to_owned())]);
    let config = load_with(key, &overrides).unwrap();
    assert_eq!(config.api_keys, [SourceSpec::Env("K".to_owned())]);
}

#[test]
fn a_listener_reaches_beyond_loopback_only_where_that_is_said() {
    let text = "listen: { nonLocal: true, explicit: ['0.0.0.0:3128', '0.0.0.0:0', '0.0.0.0:0'] }";
    assert_eq!(load(text).unwrap().listen.explicit.len(), 3);
    let mut overrides =
        Overrides { listen: vec!["0.0.0.0:3128".to_owned()], ..Overrides::default() };
    let refused = load_with("", &overrides).unwrap_err();
    assert!(refused[0].to_string().starts_with("--listen: error: "), "{}", refused[0]);
    overrides.listen_non_local = true;
    load_with("", &overrides).unwrap();
}

#[test]
fn overrides_beat_the_file_and_start_at_the_working_folder() {
    let overrides = Overrides {
        policies: vec!["p".into()],
        listen: vec!["127.0.0.1:0".to_owned()],
        metrics: Some("127.0.0.1:0".to_owned()),
        audit: Some("-".into()),
        ca_dir: Some("ca".into()),
        sandbox: Some("sb-dev".to_owned()),
        ..Overrides::default()
    };
    let config = load_with(FULL, &overrides).unwrap();
    assert_eq!(config.policies, [PathBuf::from("p")]);
    assert_eq!(config.ca_dir, PathBuf::from("ca"));
    assert_eq!(config.listen.explicit, [Listener::at("127.0.0.1:0".parse().unwrap())]);
    assert_eq!(config.audit, AuditSink::Stdout);
    assert_eq!(config.sandbox.unwrap().as_str(), "sb-dev");
    let overrides = Overrides { sandbox: Some("../x".to_owned()), ..Overrides::default() };
    assert!(load_with("", &overrides).unwrap_err()[0].to_string().starts_with("--sandbox: "));
}

#[test]
fn a_file_that_others_may_write_or_that_is_none_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tollgate.yaml");
    let load = |path: &Path| Config::load(Some(path), &Overrides::default());
    assert!(load(&path).unwrap_err()[0].to_string().contains("cannot be read"));
    assert!(load(folder.path()).unwrap_err()[0].to_string().contains("not a regular file"));
    std::fs::write(&path, "ca: { dir: x }").unwrap();
    assert_eq!(load(&path).unwrap().ca_dir, folder.path().join("x"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert!(load(&path).unwrap_err()[0].to_string().contains("everybody may write"));
}

#[test]
fn the_schema_names_every_key_and_keeps_what_is_not_carried_to_itself() {
    let schema = schema().to_string();
    for key in [
        "policies",
        "nonLocal",
        "allowPrivate",
        "connectTo",
        "bufferedBody",
        "drainTimeout",
        "command",
    ] {
        assert!(schema.contains(&format!("\"{key}\"")), "{key} is not in {schema}");
    }
    assert!(!schema.contains("\"storage\""));
    assert!(schema.contains("\"additionalProperties\":false"));
}
