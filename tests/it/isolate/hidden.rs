//! What is Tollgate's stays out of the command's sight, and where it is; devices are few.

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
