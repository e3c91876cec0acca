//! cargo: configured registries and replacements, and the indexes that it has used. An index says itself from where its files are served.

use std::path::{Path, PathBuf};

use super::Found;
use super::machine::Machine;

pub(super) fn read(machine: &Machine) -> Found {
    let mut found = Found::default();
    let home =
        machine.variable("CARGO_HOME").map_or_else(|| machine.home.join(".cargo"), PathBuf::from);
    for (name, url) in &machine.variables {
        if name.starts_with("CARGO_REGISTRIES_") && name.ends_with("_INDEX") {
            add_index(url, &format!("the variable {name}"), &mut found);
        }
    }
    let folders =
        machine.folder.ancestors().map(|folder| folder.join(".cargo")).chain([home.clone()]);
    for path in folders.flat_map(|folder| [folder.join("config.toml"), folder.join("config")]) {
        for url in indexes(&Machine::text(&path).unwrap_or_default()) {
            add_index(&url, &path.display().to_string(), &mut found);
        }
    }
    for folder in Machine::files(&home.join("registry/index")) {
        add_used(&folder, &mut found);
    }
    if found.urls.is_empty() {
        found.notes.push("no registry is configured, and cargo has not used its default one yet: fetch something once (`cargo fetch`), then run this again".to_owned());
    }
    found
}

fn add_index(url: &str, whence: &str, found: &mut Found) {
    if url.starts_with("http") && !found.urls.iter().any(|(known, _)| known == url) {
        found.notes.push(format!("the index in {whence} is a git repository; git needs POST besides GET, which the entry does not admit: prefer a sparse+ index"));
    }
    found.add(url, whence);
}

/// `registry/index/HOST-HASH` is an index that was used; its `config.json` names the host of the files.
fn add_used(folder: &Path, found: &mut Found) {
    let Some(name) = folder.file_name().and_then(|name| name.to_str()) else { return };
    let Some((host, hash)) = name.rsplit_once('-') else { return };
    if hash.len() != 16 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
        return;
    }
    found.add(host, "an index that cargo has used");
    let config = Machine::text(&folder.join("config.json")).unwrap_or_default();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap_or_default();
    if let Some(url) = config.get("dl").and_then(|url| url.as_str()) {
        found.add(url, "where the files of such an index are");
    }
}

/// The URLs of `index = "…"` and `registry = "…"` below `[registries…]` and `[source…]`, in tables and inline tables.
fn indexes(text: &str) -> Vec<String> {
    let mut urls = Vec::new();
    let mut section = String::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.split(']').next().unwrap_or_default().trim().to_owned();
        }
        let relevant = ["registries", "source"].iter().any(|name| {
            let of_section = section
                .strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            of_section || (section.is_empty() && line.starts_with(name))
        });
        if relevant {
            urls.extend(["index", "registry"].iter().filter_map(|key| quoted_value(line, key)));
        }
    }
    urls
}

/// The string of `key = "…"` within a line.
fn quoted_value(line: &str, key: &str) -> Option<String> {
    line.match_indices(key).find_map(|(at, _)| {
        let before = line.get(..at)?.chars().next_back();
        let rest = line.get(at + key.len()..)?.trim_start().strip_prefix('=')?.trim_start();
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let value = rest.get(1..)?.split(quote).next()?;
        before.is_none_or(|c| matches!(c, ' ' | '{' | ',' | '.' | '\t')).then(|| value.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_and_used_registries_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_path_buf();
        let used = root.join("home/.cargo/registry/index/index.example.org-1949cf8c6b5b557f");
        std::fs::create_dir_all(&used).unwrap();
        std::fs::write(
            used.join("config.json"),
            r#"{"dl":"https://static.example.org/{crate}","api":"https://www.example.org"}"#,
        )
        .unwrap();
        std::fs::create_dir_all(root.join(".cargo")).unwrap();
        let text = "[build]\nindex = \"https://no.example.org\"\n[registries.team]\nindex = \"sparse+https://team.example.org/i/\"\n[source]\nmirror = { registry = 'sparse+https://mirror.example.org/' }\n[source.default]\nreplace-with = \"mirror\"\n";
        std::fs::write(root.join(".cargo/config.toml"), text).unwrap();
        let machine = Machine {
            home: root.join("home"),
            folder: root.clone(),
            root,
            variables: [].into(),
            ask: false,
        };
        let hosts: Vec<_> =
            read(&machine).hosts().into_keys().map(|host| host.to_string()).collect();
        assert_eq!(
            hosts,
            ["index.example.org", "mirror.example.org", "static.example.org", "team.example.org"]
        );
    }
}
