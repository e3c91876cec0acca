//! The settings that are also flags and `TOLLGATE_…` variables. A flag beats the variable, and both beat the file.

use std::path::PathBuf;

use super::{Config, ConfigError};

/// The file and what overrides it, as flags of a command.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ConfigArgs {
    /// The server configuration; without it `tollgate.yaml` in this folder, if there is one.
    #[arg(long, env = "TOLLGATE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The rest.
    #[command(flatten)]
    pub overrides: Overrides,
}

impl ConfigArgs {
    /// Reads the configuration that these flags name.
    pub fn load(&self) -> Result<Config, Vec<ConfigError>> {
        Config::load(self.config.as_deref(), &self.overrides)
    }
}

/// What overrides the file. Relative paths are resolved against the working folder.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Overrides {
    /// Policy files or folders, in place of the configuration's.
    #[arg(long, env = "TOLLGATE_POLICIES", value_name = "PATH", value_delimiter = ',')]
    pub policies: Vec<PathBuf>,
    /// Addresses of the explicit proxy, in place of the configuration's.
    #[arg(long, env = "TOLLGATE_LISTEN", value_name = "ADDR", value_delimiter = ',')]
    pub listen: Vec<String>,
    /// Addresses of the DNS responder, in place of the configuration's.
    #[arg(long, env = "TOLLGATE_DNS", value_name = "ADDR", value_delimiter = ',')]
    pub dns: Vec<String>,
    /// Let the explicit proxy and the DNS responder listen on other addresses than loopback.
    #[arg(long, env = "TOLLGATE_LISTEN_NON_LOCAL")]
    pub listen_non_local: bool,
    /// The address of the operator's API; its key is TOLLGATE_API_KEY, if the configuration names none.
    #[arg(long, env = "TOLLGATE_API", value_name = "ADDR")]
    pub api: Option<String>,
    /// The address of /metrics, /healthz and /readyz.
    #[arg(long, env = "TOLLGATE_METRICS", value_name = "ADDR")]
    pub metrics: Option<String>,
    /// Where audit lines go; `-` is standard output.
    #[arg(long, env = "TOLLGATE_AUDIT", value_name = "FILE")]
    pub audit: Option<PathBuf>,
    /// The folder of the certificate authority and the seal key.
    #[arg(long, env = "TOLLGATE_CA_DIR", value_name = "DIR")]
    pub ca_dir: Option<PathBuf>,
    /// The one sandbox to which everything that reaches the listeners belongs.
    #[arg(long, env = "TOLLGATE_SANDBOX", value_name = "ID")]
    pub sandbox: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        config: ConfigArgs,
    }

    #[test]
    fn the_flags_are_consistent_and_lists_are_split_at_commas() {
        Command::command().debug_assert();
        let arguments = ["t", "--policies", "a,b", "--policies", "c", "--listen", "127.0.0.1:0"];
        let flags = Command::try_parse_from(arguments).unwrap().config.overrides;
        assert_eq!(flags.policies, ["a", "b", "c"].map(PathBuf::from));
        assert_eq!(flags.listen, ["127.0.0.1:0"]);
        assert!(!flags.listen_non_local);
    }
}
