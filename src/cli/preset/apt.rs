//! apt: one-line sources and deb822 sources (sources.list(5)).

use super::Found;
use super::machine::Machine;

pub(super) fn read(machine: &Machine) -> Found {
    let mut found = Found::default();
    let folder = machine.root.join("etc/apt");
    let mut files = vec![folder.join("sources.list")];
    files.extend(Machine::files(&folder.join("sources.list.d")));
    for path in files {
        let text = Machine::text(&path).unwrap_or_default();
        let urls = match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => one_line(&text),
            Some("sources") => deb822(&text),
            _ => continue,
        };
        for url in urls {
            if let Some(list) = url.strip_prefix("mirror+file:") {
                for mirror in Machine::text(list.as_ref()).unwrap_or_default().lines() {
                    found.add(mirror.split_whitespace().next().unwrap_or_default(), list);
                }
            } else if url.contains("://") {
                found.add(&url, path.display().to_string());
            }
        }
    }
    found
}

/// `deb [options] URL suite component…`
fn one_line(text: &str) -> Vec<String> {
    let url = |line: &str| {
        let line = line.split('#').next()?.trim();
        let rest = ["deb-src", "deb"].iter().find_map(|kind| line.strip_prefix(kind))?;
        let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
        let rest = if rest.starts_with('[') { rest.split_once(']')?.1 } else { rest };
        rest.split_whitespace().next().map(str::to_owned)
    };
    text.lines().filter_map(url).collect()
}

/// Paragraphs of fields, of which `URIs` may go on in indented lines; `Enabled: no` switches one off.
fn deb822(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines.split(|line| line.trim().is_empty()).flat_map(paragraph).collect()
}

fn paragraph(lines: &[&str]) -> Vec<String> {
    let mut urls = Vec::new();
    let mut in_uris = false;
    for line in lines {
        let value = if line.starts_with([' ', '\t']) {
            line
        } else {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            in_uris = field.eq_ignore_ascii_case("URIs");
            if field.eq_ignore_ascii_case("Enabled") && value.trim().eq_ignore_ascii_case("no") {
                return Vec::new();
            }
            value
        };
        if in_uris {
            urls.extend(value.split_whitespace().map(str::to_owned));
        }
    }
    urls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_sources_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_path_buf();
        std::fs::create_dir_all(root.join("etc/apt/sources.list.d")).unwrap();
        let list = "# deb http://old.example.org/ x main\ndeb [arch=amd64 signed-by=/k] http://a.example.org/debian stable main\ndeb cdrom:[x]/ stable main\n";
        std::fs::write(root.join("etc/apt/sources.list"), list).unwrap();
        let sources = "Types: deb\nURIs: https://b.example.org/ubuntu\n https://c.example.org:8443/ubuntu\nSuites: x\n\nEnabled: no\nURIs: https://off.example.org/\n";
        std::fs::write(root.join("etc/apt/sources.list.d/x.sources"), sources).unwrap();
        std::fs::write(
            root.join("etc/apt/sources.list.d/x.list.bak"),
            "deb http://bak.example.org/ x main",
        )
        .unwrap();
        let machine = Machine {
            home: root.join("home"),
            folder: root.clone(),
            root,
            variables: [].into(),
            ask: false,
        };
        let hosts: Vec<_> =
            read(&machine).hosts().into_keys().map(|host| host.to_string()).collect();
        assert_eq!(hosts, ["a.example.org", "b.example.org", "c.example.org:8443"]);
    }
}
