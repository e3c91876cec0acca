//! What stands on both sides of the real proxy when a command tries it out on this machine alone: a client as in a sandbox, an HTTPS upstream
//! with certificates of its own, and a folder that is removed afterwards. Nothing here leaves loopback.

mod client;
mod folder;
mod socket;
mod upstream;

pub(super) use client::{Answer, Client};
pub(super) use folder::Folder;
pub(super) use socket::asking;
pub(super) use upstream::{Respond, Upstream};
