//! npm: asked for its whole configuration; where it is not installed, npmrc files and variables are read.

use super::Found;
use super::machine::Machine;

pub(super) fn read(machine: &Machine) -> Found {
    let mut found = Found::default();
    let answer = machine.ask("npm", &["config", "list", "--json"]);
    match answer.and_then(|text| {
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text).ok()
    }) {
        Some(settings) => {
            for (key, value) in &settings {
                if let (true, Some(url)) = (names_registry(key), value.as_str()) {
                    found.add(url, format!("{key} of `npm config list`"));
                }
            }
        }
        None => {
            read_files(machine, &mut found);
            found.notes.push(
                "npm could not be asked; only npmrc files and variables were read".to_owned(),
            );
        }
    }
    found.notes.push(
        "`npm audit` and `npm publish` send POST and PUT, which these entries do not admit"
            .to_owned(),
    );
    found
}

/// `registry`, or `@scope:registry`.
fn names_registry(key: &str) -> bool {
    key == "registry" || (key.starts_with('@') && key.ends_with(":registry"))
}

fn read_files(machine: &Machine, found: &mut Found) {
    for (name, value) in &machine.variables {
        let key = name.to_ascii_lowercase();
        if key.strip_prefix("npm_config_").is_some_and(names_registry) {
            found.add(value, format!("the variable {name}"));
        }
    }
    for path in
        [machine.folder.join(".npmrc"), machine.home.join(".npmrc"), machine.root.join("etc/npmrc")]
    {
        for line in Machine::text(&path).unwrap_or_default().lines() {
            let Some((key, url)) = line.split_once('=') else { continue };
            if names_registry(key.trim()) {
                found.add(url, format!("{} in {}", key.trim(), path.display()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scoped_registries_are_read_and_tokens_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_path_buf();
        let text = "registry = https://npm.example.org/\n@team:registry=https://team.example.org:8443/npm/\n//team.example.org:8443/npm/:_authToken=hunter2\n";
        std::fs::write(root.join(".npmrc"), text).unwrap();
        let machine = Machine {
            home: root.join("home"),
            folder: root.clone(),
            root,
            variables: [].into(),
            ask: false,
        };
        let found = read(&machine);
        assert!(!format!("{found:?}").contains("hunter2"));
        let hosts: Vec<_> = found.hosts().into_keys().map(|host| host.to_string()).collect();
        assert_eq!(hosts, ["npm.example.org", "team.example.org:8443"]);
    }
}
