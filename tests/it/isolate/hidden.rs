//! What is Tollgate's stays out of the command's sight, and where it is; devices are few.

use std::os::unix::fs::PermissionsExt as _;

use super::{PYTHON, Workshop, fresh_value};

/// Takes the file system apart in a name space of mounts within, where nothing would be pinned.
const TAKEN_APART: &str = "
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def done(result): return result == 0 or print('refused', os.strerror(ctypes.get_errno()))
here = os.path.basename(os.getcwd())
above = os.open('..', os.O_RDONLY)
ids = os.getuid(), os.getgid()
if done(libc.unshare(0x10000000 | 0x20000)):
    for file, text in ('setgroups', 'deny'), ('gid_map', f'0 {ids[1]} 1'), ('uid_map', f'0 {ids[0]} 1'):
        open('/proc/self/' + file, 'w').write(text)
    os.mkdir('/tmp/new'); libc.mount(b'none', b'/tmp/new', b'tmpfs', 0, None)
    os.mkdir('/tmp/new/old'); os.chdir('/tmp/new')
    libc.pivot_root(b'.', b'old') if hasattr(libc, 'pivot_root') else libc.syscall({pivot_root}, b'.', b'old')
    libc.umount2(b'old', 2)
    os.rename(here, here + '-moved', src_dir_fd=above, dst_dir_fd=above)
    os.rename(here + '-moved', here, src_dir_fd=above, dst_dir_fd=above)
    print('MOVED')
";

#[tokio::test(flavor = "multi_thread")]
async fn a_name_space_of_mounts_within_takes_nothing_apart() {
    let Some(workshop) = Workshop::open(None) else { return };
    let pivot_root = if cfg!(target_arch = "x86_64") { "155" } else { "41" };
    let said = workshop.python(&TAKEN_APART.replace("{pivot_root}", pivot_root)).await;
    assert_eq!(said.out, "refused No space left on device\n", "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_keys_are_neither_a_variable_nor_a_file() {
    let Some(workshop) = Workshop::open(None) else { return };
    let key = fresh_value("operator");
    workshop.write("operators/key", &key);
    let config = "audit: { file: audit/audit.jsonl }\n\
        api: { keys: [{ env: OPERATORS }, { file: operators/key }] }\n";
    workshop.write("tollgate.yaml", config);
    let script = "env; cat operators/key";
    let mut isolated = workshop.isolated(&[], &["sh", "-c", script]);
    let mut beside = workshop.command(super::program());
    beside.args(["run", "--", "sh", "-c", "env"]);
    for command in [&mut isolated, &mut beside] {
        command.env("OPERATORS", &key).env("COPY", &key);
    }
    for command in [isolated, beside] {
        let said = workshop.run(command).await;
        assert!(said.out.contains("SSL_CERT_FILE") && !said.out.contains(&key), "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_folder_above_what_is_hidden_can_be_moved() {
    let Some(workshop) = Workshop::open(None) else { return };
    let policy = super::POLICY.replace("../secrets", "../../../secrets");
    workshop.write("p/in/policies/policy.yaml", &policy);
    workshop.write("f/in/tollgate.yaml", "audit: { file: ../../a/in/audit.jsonl }");
    workshop.write("a/in/audit.jsonl", "");
    workshop.write("c/in/certs/none", "");
    std::fs::remove_file(workshop.path("c/in/certs/none")).unwrap();
    let options =
        ["--config", "f/in/tollgate.yaml", "--policies", "p/in/policies", "--ca-dir", "c/in/certs"];
    let script = "for f in p f a c; do mv $f/in $f/out && echo MOVED $f/in; mv $f $f-out && echo MOVED $f; done; \
        find p f a c -type f -size +0";
    let said = workshop.run(workshop.isolated(&options, &["sh", "-c", script])).await;
    assert_eq!((said.out.as_str(), said.code), ("", Some(0)), "{said:?}");
    assert_eq!(said.err.matches("busy").count(), 8, "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_socket_is_reached_beside_what_is_hidden() {
    let Some(workshop) = Workshop::open(None) else { return };
    let policy = super::POLICY.replace("../secrets", "../../../secrets");
    workshop.write("p/in/policies/policy.yaml", &policy);
    let socket = workshop.path("p/in/agent.sock");
    let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o777)).unwrap();
    let options = ["--policies", "p/in/policies", "--share", "p"];
    let script = "import os, socket; socket.socket(socket.AF_UNIX).connect('p/in/agent.sock'); print(os.listdir('p/in/policies'))";
    let said = workshop.run(workshop.isolated(&options, &[PYTHON, "-c", script])).await;
    assert_eq!(said.out, "[]\n", "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_deep_in_the_working_folder_are_hidden() {
    let Some(workshop) = Workshop::open(None) else { return };
    let literal = format!("from: {{ value: {} }}", workshop.value);
    let policy = super::POLICY.replace("from: { file: ../secrets/key }", &literal);
    for name in ["sub/p.yaml", "q.yaml"] {
        let policy = if name == "q.yaml" { "secretStores: {}\n" } else { &policy };
        workshop.write(&format!("work/{name}"), policy);
    }
    let options = ["--config", "../tollgate.yaml", "--policies", "."];
    let script = "cat mine sub/p.yaml q.yaml; find . -name '*.yaml' -size +0";
    let mut command = workshop.isolated(&options, &["sh", "-c", script]);
    command.current_dir(workshop.path("work"));
    let said = workshop.run(command).await;
    assert_eq!((said.out.as_str(), said.code), ("mine", Some(0)), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_the_harmless_ones_and_those_that_are_shared() {
    let Some(workshop) = Workshop::open(None) else { return };
    const USUAL: &str = "console dri fd full kvm mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    let script = "ls /dev; \
        head -c4 /dev/urandom | cat - /dev/null | wc -c; echo x > /dev/null && echo out; \
        echo in | cat /dev/stdin; cat < /dev/zero | head -c1 | wc -c; \
        echo shm > /dev/shm/x && cat /dev/fd/3 3< /dev/shm/x; python3 -c 'import os; print(len(os.openpty()))'; \
        rm -f /dev/null; test -c /dev/null && echo kept";
    let said = workshop.shell(script).await;
    let listed = said.out.split_once("4\nout").map(|(devices, _)| devices).unwrap_or_default();
    let foreign: Vec<_> =
        listed.lines().filter(|name| !USUAL.split(' ').any(|usual| usual == *name)).collect();
    assert!(foreign.is_empty() && listed.contains("null\n"), "{foreign:?} {said:?}");
    assert!(said.out.ends_with("4\nout\nin\n1\nshm\n2\nkept\n"), "{said:?}");
    let other = "/dev/loop-control";
    if std::path::Path::new(other).exists() {
        let script = format!("import os, stat; print(stat.S_ISCHR(os.stat({other:?}).st_mode))");
        let shared = workshop.isolated(&["--share", other], &[PYTHON, "-c", &script]);
        assert_eq!(workshop.run(shared).await.out, "True\n");
    }
}
