//! Sockets that systemd opened, and what it is told.

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const POLICY: &str = "
secretStores: { store: { egressAllowlist: [api.example.com] } }
sandboxes: { sb-only: { secretStores: [store] } }
";

/// `tollgate serve` as systemd starts it: a socket as descriptor 3, and where it is told to say that it is ready.
fn started(folder: &Path, handed: TcpListener, listen: &str) -> Child {
    std::fs::write(folder.join("policy.yaml"), POLICY).unwrap();
    let config = format!("{{ policies: [policy.yaml], listen: {{ explicit: [\"{listen}\"] }} }}");
    std::fs::write(folder.join("tollgate.yaml"), config).unwrap();
    let script =
        "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve --sandbox sb-only";
    Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_tollgate")])
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("NOTIFY_SOCKET", folder.join("notify"))
        .stdin(OwnedFd::from(handed))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_socket_that_was_handed_over_is_used_and_readiness_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let systemd = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let told = || {
        let mut message = [0; 256];
        let length = systemd.recv(&mut message).expect("systemd is told");
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let handed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = handed.local_addr().unwrap();
    // A connection that waits in the queue since before the start is served too.
    let mut early = TcpStream::connect(address).unwrap();
    let mut child = started(folder.path(), handed, &address.to_string());
    assert!(told().contains("READY=1"));
    std::io::Write::write_all(&mut early, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    early.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut status = [0; 12];
    early.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 400");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(told().contains("STOPPING=1"));
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_socket_that_no_key_names_ends_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let handed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = handed.local_addr().unwrap().to_string();
    let output = started(folder.path(), handed, "127.0.0.1:0").wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains(&address) && said.contains("handed over"),
        "{said}"
    );
}
