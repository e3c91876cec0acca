//! The mounts of this mount name space, and what is done to them.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};

/// One line of `mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    device: String,
    /// The part of the file system that is mounted.
    root: PathBuf,
    pub(super) at: PathBuf,
    options: String,
    pub(super) kind: String,
}

/// All mounts, in the order in which they were made.
pub(super) fn read() -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read_to_string("/proc/self/mountinfo")?))
}

fn parse(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let mut fields = front.split(' ').skip(2);
        let device = fields.next()?.to_owned();
        let root = unescaped(fields.next()?);
        let at = unescaped(fields.next()?);
        let options = fields.next()?.to_owned();
        Some(Mount { device, root, at, options, kind: back.split(' ').next()?.to_owned() })
    };
    text.lines().filter_map(mount).collect()
}

/// `\040` for a space, and so on.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let octal = after.first_chunk::<3>().and_then(|digits| std::str::from_utf8(digits).ok());
        let code = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(|_| *first == b'\\') {
            Some(code) => {
                bytes.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

/// Every other path at which the same file or folder can be seen: file systems are often mounted more than once.
pub(super) fn aliases(mounts: &[Mount], path: &Path) -> Vec<PathBuf> {
    // The last mount at the longest prefix is the one that shows.
    let Some(own) = mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.at))
        .max_by_key(|mount| mount.at.components().count())
    else {
        return Vec::new();
    };
    let Ok(below) = path.strip_prefix(&own.at) else { return Vec::new() };
    let inside = joined(&own.root, below);
    let same = mounts.iter().filter(|mount| mount.device == own.device);
    same.filter_map(|mount| Some(joined(&mount.at, inside.strip_prefix(&mount.root).ok()?)))
        .filter(|alias| alias != path)
        .collect()
}

/// Without the slash at the end that an empty second part would leave.
fn joined(first: &Path, second: &Path) -> PathBuf {
    if second.as_os_str().is_empty() { first.to_owned() } else { first.join(second) }
}

impl Mount {
    /// Makes it read-only, and keeps the options that the kernel does not let us lift.
    pub(super) fn read_only(&self) -> io::Result<()> {
        let mut flags = MountFlags::BIND | MountFlags::RDONLY;
        for option in self.options.split(',') {
            flags |= match option {
                "nosuid" => MountFlags::NOSUID,
                "nodev" => MountFlags::NODEV,
                "noexec" => MountFlags::NOEXEC,
                "noatime" => MountFlags::NOATIME,
                "nodiratime" => MountFlags::NODIRATIME,
                "relatime" => MountFlags::RELATIME,
                _ => MountFlags::empty(),
            };
        }
        Ok(mount_remount(&self.at, flags, "")?)
    }
}

/// A file system in memory, for nobody else.
pub(super) fn memory(at: &Path, options: &str, flags: MountFlags) -> io::Result<()> {
    let options = CString::new(options)?;
    let flags = flags | MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", at, "tmpfs", flags, options.as_c_str()).map_err(|error| named(at, error))
}

/// Shows a file of ours, which lies in memory, in the place of another.
pub(super) fn show(file: &Path, at: &Path) -> io::Result<()> {
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount_bind(file, at)
        .and_then(|()| mount_remount(at, flags, ""))
        .map_err(|error| named(at, error))
}

/// Writes a file of ours, and makes the folders above it.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| named(parent, error))?;
    }
    fs::write(path, bytes).map_err(|error| named(path, error))
}

/// An error that says where.
pub(super) fn named(path: &Path, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = r"21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
22 21 254:0 /home /mnt/more\040homes rw,nosuid - ext4 /dev/vda rw
23 21 0:30 / /sys ro - sysfs sysfs rw
";

    #[test]
    fn a_line_is_read_with_its_escapes() {
        let mounts = parse(TABLE);
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[1].at, Path::new("/mnt/more homes"));
        assert_eq!((mounts[2].kind.as_str(), mounts[2].options.as_str()), ("sysfs", "ro"));
    }

    #[test]
    fn a_file_is_found_wherever_its_file_system_is_mounted() {
        let mounts = parse(TABLE);
        let aliases = |path: &str| aliases(&mounts, Path::new(path));
        assert_eq!(aliases("/home/u/key"), [Path::new("/mnt/more homes/u/key")]);
        assert_eq!(aliases("/mnt/more homes/u/key"), [Path::new("/home/u/key")]);
        assert!(aliases("/etc/key").is_empty());
    }
}
