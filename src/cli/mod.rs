//! The command line: one file per command, no logic that the library lacks.

mod allowed_hosts;
mod ca;
mod check;
mod demo;
mod doctor;
mod env;
mod explain;
mod loopback;
mod preset;
mod run;
mod schema;
mod selftest;
mod serve;
mod terminal;
mod test;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use terminal::Format;
pub use terminal::{Failure, Terminal};

/// Parses the arguments, runs the command, and turns its outcome into an exit status: 0 done, 1 the check or the start failed, 2 wrong usage.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(ended) = crate::isolate::stage() {
        return ended;
    }
    let cli = Cli::parse();
    crate::telemetry::init();
    let mut terminal = Terminal::new();
    match cli.command.run(&mut terminal) {
        Ok(code) => code,
        Err(failure) => {
            terminal.error(&failure);
            ExitCode::FAILURE
        }
    }
}

/// An egress secrets proxy: the sandbox holds sealed tokens, Tollgate holds the credentials.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, about, max_term_width = 110, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// See it work: a tour with an upstream of its own, on loopback.
    Demo(demo::Demo),
    /// Run the proxy.
    Serve(serve::ServeArgs),
    Run(run::RunArgs),
    /// Print what to export in a sandbox.
    Env(env::EnvArgs),
    /// The certificate authority that sandboxes trust.
    Ca(ca::Ca),
    Check(check::Check),
    Test(test::Test),
    Doctor(doctor::Doctor),
    #[command(name = "selftest")]
    SelfTest(selftest::SelfTest),
    Explain(explain::Explain),
    AllowedHosts(allowed_hosts::AllowedHostsArgs),
    Schema(schema::Schema),
    Preset(preset::Preset),
    /// Print a shell completion script.
    #[command(
        after_help = "Example:\n  tollgate completions bash > ~/.local/share/bash-completion/completions/tollgate"
    )]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

impl Command {
    fn run(self, terminal: &mut Terminal) -> Result<ExitCode, Failure> {
        match self {
            Self::Demo(demo) => demo.run(terminal),
            Self::Serve(serve) => serve.run(terminal),
            Self::Run(run) => run.run(terminal),
            Self::Env(env) => env.run(terminal),
            Self::Ca(ca) => ca.run(terminal).map(|()| ExitCode::SUCCESS),
            Self::Check(check) => check.run(terminal),
            Self::Test(test) => test.run(terminal),
            Self::Doctor(doctor) => doctor.run(terminal),
            Self::SelfTest(selftest) => selftest.run(terminal),
            Self::Explain(explain) => explain.run(terminal),
            Self::AllowedHosts(allowed_hosts) => allowed_hosts.run(terminal),
            Self::Schema(schema) => schema.run(terminal),
            Self::Preset(preset) => preset.run(terminal),
            Self::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "tollgate", &mut script);
                terminal.print(&String::from_utf8_lossy(&script))?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// The runtime of commands that talk to sockets. On one processor, which is what most sidecars have, there is nobody to share work with.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    use tokio::runtime::Builder;
    let one = std::thread::available_parallelism().is_ok_and(|processors| processors.get() == 1);
    let mut builder = if one { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    builder.enable_all().build()
}
