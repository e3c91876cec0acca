//! Leaving the caller's name spaces without being root, and what to change where the kernel forbids it.

use std::io;
use std::path::Path;

use rustix::thread::UnshareFlags;

use super::sys;

/// All that a command gets of its own; processes it starts from here on are in the new PID name space.
pub(super) fn leave_all(uid: u32, gid: u32) -> Result<(), Forbidden> {
    let flags = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    sys::unshare(flags).map_err(Forbidden::of)?;
    // Nobody is root in there: to root would belong what the kernel lets the root of a network change.
    map_ids(uid, gid).and_then(|()| keep_capabilities()).map_err(Forbidden::of)
}

/// Keeps this process's capabilities over the next `exec`.
pub(super) fn keep_capabilities() -> io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.inheritable = sets.permitted;
    rustix::thread::set_capabilities(None, sets)?;
    for capability in sets.permitted.iter() {
        rustix::thread::configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// A user name space within, in which nothing above can be changed any more: the command is its caller again.
pub(super) fn descend(uid: u32, gid: u32) -> io::Result<()> {
    sys::unshare(UnshareFlags::NEWUSER)?;
    map_ids(uid, gid)
}

/// One id each, the same inside and outside.
fn map_ids(uid: u32, gid: u32) -> io::Result<()> {
    let write = |name: &str, text: String| std::fs::write(Path::new("/proc/self").join(name), text);
    write("setgroups", "deny".to_owned())?;
    write("gid_map", format!("{gid} {gid} 1"))?;
    write("uid_map", format!("{uid} {uid} 1"))
}

/// The kernel does not let this user make name spaces.
#[derive(Debug, thiserror::Error)]
#[error("the kernel does not let this user make name spaces ({error}): {}", advice())]
pub(super) struct Forbidden {
    error: io::Error,
}

impl Forbidden {
    const fn of(error: io::Error) -> Self {
        Self { error }
    }
}

/// The setting that forbids it.
pub(super) fn advice() -> &'static str {
    let forbids = SETTINGS.iter().find(|setting| setting.forbids());
    forbids.map_or(OTHERWISE, |setting| setting.advice)
}

struct Setting {
    path: &'static str,
    forbidding: &'static str,
    advice: &'static str,
}

impl Setting {
    fn forbids(&self) -> bool {
        std::fs::read_to_string(self.path).is_ok_and(|value| value.trim() == self.forbidding)
    }
}

const SETTINGS: [Setting; 4] = [
    Setting {
        path: "/proc/sys/kernel/unprivileged_userns_clone",
        forbidding: "0",
        advice: "set `sysctl kernel.unprivileged_userns_clone=1`",
    },
    Setting {
        path: "/proc/sys/user/max_user_namespaces",
        forbidding: "0",
        advice: "raise `sysctl user.max_user_namespaces` above 0",
    },
    Setting {
        path: "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        forbidding: "1",
        advice: "AppArmor restricts it: set `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or give tollgate a profile with `userns,`",
    },
    Setting {
        path: "/proc/sys/user/max_net_namespaces",
        forbidding: "0",
        advice: "raise `sysctl user.max_net_namespaces` above 0",
    },
];

const OTHERWISE: &str = "in a container, its seccomp or AppArmor profile forbids it; on a machine, look at `sysctl user.max_user_namespaces user.max_net_namespaces` and SELinux's `user_namespace` class";
