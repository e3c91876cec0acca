//! `tollgate preset from-client`: what a package client on this machine is configured to contact, as policy entries that only read.
//!
//! No registry is named here. A host comes from the client's configuration, or from the client itself where it uses its built-in default.

mod apt;
mod cargo;
mod machine;
mod npm;
mod pip;

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use self::machine::Machine;
use super::{Failure, Terminal};
use crate::host::{Authority, HostPattern, Scheme};

/// Print policy entries for what is installed on this machine.
#[derive(Debug, Args)]
pub(super) struct Preset {
    #[command(subcommand)]
    of: Of,
}

#[derive(Debug, Subcommand)]
enum Of {
    /// Read a package client's configuration, and print a policy file that admits what it downloads, by GET and HEAD only.
    #[command(
        after_help = "Credentials in the client's configuration are neither read nor printed.\n\nExample:\n  tollgate preset from-client pip > policies/pip.yaml"
    )]
    FromClient {
        /// The client.
        #[arg(value_enum)]
        client: Client,
    },
}

/// The clients whose configuration can be read.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Client {
    /// pip: pip.conf files, PIP_… variables, pip's own defaults.
    Pip,
    /// npm: npmrc files with scoped registries, npm_config_… variables.
    Npm,
    /// cargo: config.toml files, CARGO_REGISTRIES_… variables, the indexes that it has used.
    Cargo,
    /// apt: sources.list and deb822 .sources files.
    Apt,
}

impl Preset {
    pub(super) fn run(self, terminal: &mut Terminal) -> Result<ExitCode, Failure> {
        let Of::FromClient { client } = self.of;
        let machine = Machine::this();
        let (name, found) = match client {
            Client::Pip => ("pip", pip::read(&machine)),
            Client::Npm => ("npm", npm::read(&machine)),
            Client::Cargo => ("cargo", cargo::read(&machine)),
            Client::Apt => ("apt", apt::read(&machine)),
        };
        for note in &found.notes {
            terminal.note(format_args!("tollgate: {note}"));
        }
        let hosts = found.hosts();
        if hosts.is_empty() {
            return Err(format!("nothing was found that {name} would contact; configure the client, or write the entries by hand").into());
        }
        terminal.print(&policy(name, &hosts))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What a client's configuration names.
#[derive(Debug, Default)]
struct Found {
    /// URLs (or bare hosts) with the place where each is written.
    urls: Vec<(String, String)>,
    /// What a person should know.
    notes: Vec<String>,
}

impl Found {
    fn add(&mut self, url: &str, whence: impl Into<String>) {
        self.urls.push((url.trim().to_owned(), whence.into()));
    }

    /// The hosts of all URLs, each with the first place that names it. User names and passwords are dropped unread.
    fn hosts(&self) -> BTreeMap<HostPattern, String> {
        let mut hosts = BTreeMap::new();
        for (url, whence) in &self.urls {
            if let Some(pattern) = host_of(url) {
                hosts.entry(pattern).or_insert_with(|| whence.clone());
            }
        }
        hosts
    }
}

/// The host of an `http` or `https` URL, with its port if that is not the scheme's.
fn host_of(url: &str) -> Option<HostPattern> {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) if scheme.ends_with("https") => (Scheme::Https, rest),
        Some((scheme, rest)) if scheme.ends_with("http") => (Scheme::Http, rest),
        Some(_) => return None,
        None => (Scheme::Https, url),
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let destination = Authority::parse(authority).ok()?.destination(scheme);
    destination.authority(scheme).parse().ok()
}

fn policy(name: &str, hosts: &BTreeMap<HostPattern, String>) -> String {
    let mut text = format!(
        "# What {name} on this machine downloads from, read-only by method. Written by `tollgate preset from-client {name}`.\nsecretStores:\n  {name}:\n    egressAllowlist:\n"
    );
    for (host, whence) in hosts {
        let whence: String = whence.chars().filter(|c| !c.is_control()).take(200).collect();
        text.push_str(&format!(
            "      # {whence}\n      - {{ host: \"{host}\", methods: [GET, HEAD] }}\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::PolicySet;

    #[test]
    fn hosts_are_taken_from_urls_without_their_credentials() {
        for (url, host) in [
            ("https://user:pass@packages.example.org/simple", Some("packages.example.org")),
            ("sparse+https://index.example.org/", Some("index.example.org")),
            ("http://mirror.example.org:8080/debian", Some("mirror.example.org:8080")),
            ("files.example.org", Some("files.example.org")),
            ("http://mirror.example.org/debian", Some("mirror.example.org")),
            ("file:///srv/mirror", None),
            ("cdrom:[x]/", None),
        ] {
            assert_eq!(host_of(url).map(|host| host.to_string()).as_deref(), host, "{url}");
        }
    }

    #[test]
    fn what_is_printed_is_a_policy_without_findings() {
        let mut found = Found::default();
        found.add("https://u:secret@packages.example.org/", "pip.conf\nevil: yes");
        found.add("https://files.example.org:8443/", "pip itself");
        let text = policy("pip", &found.hosts());
        assert!(!text.contains("secret@"), "{text}");
        assert_eq!(PolicySet::read(Path::new("pip.yaml"), &text).diagnostics, [], "{text}");
    }
}
