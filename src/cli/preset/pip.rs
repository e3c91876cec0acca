//! pip: configuration files and variables first; what they leave open, pip itself answers.

use std::path::PathBuf;

use super::Found;
use super::machine::Machine;

/// The keys that name indexes (pip's user guide, "Configuration").
const KEYS: [&str; 3] = ["index-url", "extra-index-url", "find-links"];

/// Asks pip for its default index, the first that its source defines, and for the host on which that index keeps its files.
const DEFAULTS: &str = "
from pip._internal.models import index
default = next(i for i in vars(index).values() if isinstance(i, index.PackageIndex))
print(default.simple_url)
print(default.file_storage_domain)
";

pub(super) fn read(machine: &Machine) -> Found {
    let mut found = Found::default();
    let mut has_index = false;
    for (variable, key) in
        [("PIP_INDEX_URL", KEYS[0]), ("PIP_EXTRA_INDEX_URL", KEYS[1]), ("PIP_FIND_LINKS", KEYS[2])]
    {
        for url in machine.variable(variable).into_iter().flat_map(str::split_whitespace) {
            has_index |= key == KEYS[0];
            found.add(url, format!("the variable {variable}"));
        }
    }
    for path in files(machine) {
        let Some(text) = Machine::text(&path) else { continue };
        for (key, url) in settings(&text) {
            has_index |= key == KEYS[0];
            found.add(&url, format!("{key} in {}", path.display()));
        }
    }
    if !has_index {
        add_defaults(machine, &mut found);
    }
    if !found.urls.is_empty() {
        found.notes.push(
            "an index may link to files on other hosts; the denials of a first download name them"
                .to_owned(),
        );
    }
    found
}

fn add_defaults(machine: &Machine, found: &mut Found) {
    let programs = ["python3", "python"];
    match programs.iter().find_map(|program| machine.ask(program, &["-c", DEFAULTS])) {
        Some(answer) => answer.lines().for_each(|url| found.add(url, "pip's own default")),
        None => found
            .notes
            .push("no index is configured, and pip could not be asked for its default".to_owned()),
    }
}

/// Site, user and environment files, in the order in which pip reads them.
fn files(machine: &Machine) -> Vec<PathBuf> {
    let config = machine
        .variable("XDG_CONFIG_HOME")
        .map_or_else(|| machine.home.join(".config"), PathBuf::from);
    let mut files = vec![
        machine.root.join("etc/xdg/pip/pip.conf"),
        machine.root.join("etc/pip.conf"),
        machine.home.join(".pip/pip.conf"),
        config.join("pip/pip.conf"),
    ];
    files.extend(
        machine.variable("VIRTUAL_ENV").map(|folder| PathBuf::from(folder).join("pip.conf")),
    );
    files.extend(machine.variable("PIP_CONFIG_FILE").map(PathBuf::from));
    files
}

/// The keys of an INI file that name indexes; a value may go on in indented lines.
fn settings(text: &str) -> Vec<(&'static str, String)> {
    let mut settings = Vec::new();
    let mut current = None;
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        let value = if line.starts_with([' ', '\t']) {
            line
        } else {
            let (key, value) = line.split_once(['=', ':']).unwrap_or((line, ""));
            let key = key.trim().replace('_', "-");
            current = KEYS.iter().find(|known| **known == key);
            value
        };
        if let Some(key) = current {
            settings.extend(value.split_whitespace().map(|url| (*key, url.to_owned())));
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_variables_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_path_buf();
        std::fs::create_dir_all(root.join("home/.config/pip")).unwrap();
        let text = "[global]\n# index-url = https://old.example.org\nindex-url = https://u:p@packages.example.org/simple\nextra-index-url =\n    https://a.example.org/\n    https://b.example.org/\n[install]\nno-binary = x\n";
        std::fs::write(root.join("home/.config/pip/pip.conf"), text).unwrap();
        let variables =
            [("PIP_FIND_LINKS".to_owned(), "https://links.example.org/ /srv/wheels".to_owned())]
                .into();
        let machine =
            Machine { home: root.join("home"), folder: root.clone(), root, variables, ask: false };
        let hosts: Vec<_> =
            read(&machine).hosts().into_keys().map(|host| host.to_string()).collect();
        assert_eq!(
            hosts,
            ["a.example.org", "b.example.org", "links.example.org", "packages.example.org"]
        );
    }
}
