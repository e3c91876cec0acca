//! stub
use super::{Failure, Terminal};
use std::process::ExitCode;
/// stub
#[derive(Debug, clap::Args)]
pub(super) struct Demo {}
impl Demo {
    pub(super) fn run(self, _t: &mut Terminal) -> Result<ExitCode, Failure> {
        Ok(ExitCode::SUCCESS)
    }
}
