//! A network namespace that a test makes and takes away again.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// It ends when this is dropped, also where a test panics, and all links in it with it.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// With a name that no other test has, and loopback up.
    pub(crate) fn new(role: &str) -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let nth = MADE.fetch_add(1, Ordering::Relaxed);
        let namespace = Self { name: format!("{PREFIX}{}-{nth}-{role}", std::process::id()) };
        ip(&["netns", "add", &namespace.name]);
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `ip` inside.
    pub(crate) fn ip(&self, arguments: &[&str]) -> String {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    /// A program inside; `/etc` as [`Namespace::etc`] has it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs it to its end, which must be good.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        checked(&self.command(program).args(arguments).output().unwrap(), program)
    }

    /// The folder whose entries lie over those of `/etc` for programs inside.
    pub(crate) fn etc(&self) -> PathBuf {
        let folder = PathBuf::from("/etc/netns").join(&self.name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Does something with the sockets of the namespace, on a thread of its own: what is opened there stays there.
    pub(crate) fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name)).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let namespace = namespace.as_fd();
                move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network)).unwrap();
                act()
            });
            thread.join().unwrap()
        })
    }

    pub(crate) fn listen(&self, address: SocketAddr) -> TcpListener {
        let listener = self.within(|| TcpListener::bind(address).unwrap());
        listener.set_nonblocking(true).unwrap();
        listener
    }

    pub(crate) fn udp(&self, address: SocketAddr) -> UdpSocket {
        self.within(|| UdpSocket::bind(address).unwrap())
    }

    /// A connection from inside, or why there is none.
    pub(crate) fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        self.within(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["netns", "del", &self.name]).output());
        drop(std::fs::remove_dir_all(format!("/etc/netns/{}", self.name)));
    }
}

const PREFIX: &str = "tg-";

/// What a run that was killed left behind.
pub(crate) fn sweep() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
            let gone = |pid: &str| !PathBuf::from("/proc").join(pid).exists();
            if pid.is_some_and(gone) {
                drop(Namespace { name });
            }
        }
    });
}

fn ip(arguments: &[&str]) -> String {
    checked(&Command::new("ip").args(arguments).output().unwrap(), &arguments.join(" "))
}

#[track_caller]
fn checked(output: &Output, what: &str) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{what}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}
