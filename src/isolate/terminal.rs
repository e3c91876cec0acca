//! Who may use the controlling terminal: a command has a process group of its own, so that it cannot signal Tollgate's, and only one group
//! is in the foreground.

use std::fs::File;

use rustix::process::{Pid, getpgrp};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

use super::sys;

/// The controlling terminal of this process, if it has one.
#[derive(Debug)]
pub struct ControllingTerminal {
    file: Option<File>,
}

impl ControllingTerminal {
    /// Opens it. From here on this process may change who is in the foreground although it is not there itself.
    #[must_use]
    pub fn open() -> Self {
        let file = File::options().read(true).write(true).open("/dev/tty").ok();
        if file.is_some() {
            sys::ignore_background_writes();
        }
        Self { file }
    }

    /// Whether there is one.
    #[must_use]
    pub const fn is_there(&self) -> bool {
        self.file.is_some()
    }

    /// Whether this process's group is in the foreground.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.file
            .as_ref()
            .and_then(|terminal| tcgetpgrp(terminal).ok())
            .is_some_and(|group| group == getpgrp())
    }

    /// Takes the foreground for this process's group.
    pub fn take_back(&self) {
        self.give(getpgrp());
    }

    /// Puts a group into the foreground. One that has ended meanwhile needs no terminal.
    pub(super) fn give(&self, group: Pid) {
        if let Some(terminal) = &self.file {
            let _ended = tcsetpgrp(terminal, group);
        }
    }
}
