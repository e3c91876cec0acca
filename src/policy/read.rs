//! Policy files from disk: found, opened once, checked on the open descriptor, bounded in size, and never read half.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::diagnostic::{Diagnostic, Findings, Source};

/// The largest policy file.
const MAX_BYTES: u64 = 1 << 20;
/// The most files that one load reads.
const MAX_FILES: usize = 10_000;
/// How deep folders are searched.
const MAX_DEPTH: usize = 8;

/// Which files of a folder are wanted; a file that is named itself is always taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// `*.yaml`, `*.yml` and `*.json`, but no fixtures.
    Policies,
    /// `*.test.yaml`, `*.test.yml` and `*.test.json`.
    Fixtures,
}

/// The files below the given paths, sorted within each folder, each once. Folders that cannot be read and paths that lead to nothing are
/// errors.
pub(super) fn find(paths: &[PathBuf], wanted: Wanted, findings: &mut Findings) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        let before = files.len();
        if path.is_dir() {
            walk(path, wanted, 0, &mut files, findings);
            if files.len() == before {
                findings.push(nothing_in(path, wanted));
            }
        } else {
            files.push(path.clone());
        }
    }
    let mut seen = std::collections::HashSet::new();
    files.retain(|file| seen.insert(file.canonicalize().unwrap_or_else(|_error| file.clone())));
    if files.len() > MAX_FILES {
        findings.push(Diagnostic::of_file(
            "too-many-files",
            "",
            format!("there are more than {MAX_FILES} files"),
        ));
        files.truncate(MAX_FILES);
    }
    files
}

fn nothing_in(path: &Path, wanted: Wanted) -> Diagnostic {
    let (what, names) = match wanted {
        Wanted::Policies => ("policy files", "*.yaml, *.yml or *.json"),
        Wanted::Fixtures => ("fixtures", "*.test.yaml, *.test.yml or *.test.json"),
    };
    Diagnostic::of_file(
        "no-file",
        &path.display().to_string(),
        format!("the folder holds no {what}"),
    )
    .hint(format!("{what} are called {names}"))
}

fn walk(
    folder: &Path,
    wanted: Wanted,
    depth: usize,
    files: &mut Vec<PathBuf>,
    findings: &mut Findings,
) {
    let mut entries: Vec<PathBuf> = match std::fs::read_dir(folder) {
        Ok(entries) => entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect(),
        Err(error) => return findings.push(unreadable(folder, &error)),
    };
    entries.sort();
    for path in entries {
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || files.len() > MAX_FILES {
            continue;
        }
        if path.is_dir() {
            if depth < MAX_DEPTH {
                walk(&path, wanted, depth + 1, files, findings);
            }
        } else if kind(&path) == Some(wanted) {
            files.push(path);
        }
    }
}

fn kind(path: &Path) -> Option<Wanted> {
    let name = path.file_name()?.to_str()?;
    let stem = [".yaml", ".yml", ".json"].iter().find_map(|end| name.strip_suffix(end))?;
    Some(if stem.ends_with(".test") { Wanted::Fixtures } else { Wanted::Policies })
}

/// Reads one file whole: opened once, and everything is asked of the open file, so that nothing can be swapped in between.
pub(super) fn read(path: &Path, findings: &mut Findings) -> Option<Arc<Source>> {
    match read_checked(path) {
        Ok(text) => Some(Arc::new(Source::new(&path.display().to_string(), text))),
        Err(diagnostic) => {
            findings.push(*diagnostic);
            None
        }
    }
}

fn read_checked(path: &Path) -> Result<String, Box<Diagnostic>> {
    let failed = |error: &std::io::Error| Box::new(unreadable(path, error));
    // Not blocking, so that a pipe in the place of a file does not hold the load up.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(&error.into()))?;
    let mut file = File::from(file);
    let metadata = file.metadata().map_err(|error| failed(&error))?;
    check_trust(path, &metadata)?;
    let mut bytes = Vec::new();
    file.by_ref().take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    if bytes.len() as u64 > MAX_BYTES {
        let message = format!("the file is larger than {MAX_BYTES} bytes");
        return Err(of_file(
            "too-large",
            path,
            &message,
            "split it; files of one folder are one policy",
        ));
    }
    String::from_utf8(bytes).map_err(|_error| {
        of_file("not-utf-8", path, "the file is not UTF-8", "save it as UTF-8; UTF-16 is not read")
    })
}

/// Who may write a policy file decides what a sandbox may reach.
fn check_trust(path: &Path, metadata: &std::fs::Metadata) -> Result<(), Box<Diagnostic>> {
    if !metadata.is_file() {
        return Err(of_file(
            "not-a-file",
            path,
            "this is not a regular file",
            "name a file or a folder",
        ));
    }
    if metadata.mode() & 0o002 != 0 {
        return Err(of_file(
            "writable-by-others",
            path,
            "everybody may write this file",
            "chmod o-w it: who writes the policy decides what a sandbox may reach",
        ));
    }
    let owner = metadata.uid();
    let own = rustix::process::geteuid().as_raw();
    if owner != 0 && owner != own {
        let message = format!(
            "the file belongs to user {owner}, who is neither root nor the user that Tollgate runs as ({own})"
        );
        return Err(of_file("foreign-owner", path, &message, "chown it to one of the two"));
    }
    Ok(())
}

fn of_file(code: &'static str, path: &Path, message: &str, hint: &str) -> Box<Diagnostic> {
    Box::new(Diagnostic::of_file(code, &path.display().to_string(), message).hint(hint))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic::of_file(
        "unreadable",
        &path.display().to_string(),
        format!("cannot be read: {error}"),
    )
}
