//! What is allowed: no clock, no async, and no I/O but that [`PolicySet::load`] reads its files.
//!
//! Written policy (`read`, `yaml`, `file`) → checked and compiled (`compile`, `lint`) → one immutable [`EffectivePolicy`] per sandbox
//! (`layers`), which is both what is enforced ([`decide_connect`], [`decide_request`], [`decide_address`], [`decide_name`]) and what is
//! shown (`explain`).

mod compile;
mod decide;
mod diagnostic;
mod effective;
mod explain;
mod file;
mod fixture;
mod layers;
mod lint;
mod path;
mod presets;
mod read;
mod report;
mod schema;
mod signing;
mod verdict;
mod yaml;

pub use compile::{Loaded, PolicySet, SandboxEntry};
pub(crate) use decide::leads_here;
pub use decide::{
    OwnSockets, decide_address, decide_connect, decide_name, decide_proxy_address, decide_request,
    decide_unresolved,
};
pub use diagnostic::{Diagnostic, Related, Severity};
pub use effective::{
    AllowRule, Allowlist, BoundSecret, EffectivePolicy, Misdirected, OperatorRules, PolicyDigest,
    PolicyParts, PrivateAccess, RuleName,
};
pub use explain::{Explanation, RequestLine, RequestLineError, VerdictName, explain};
pub use fixture::{CaseResult, FixtureReport, run_fixtures};
pub use layers::{InjectConflict, LayerError, SecretDef, Store, unite};
pub use path::{NormalPath, PathFault, PathGlob, PathGlobError};
pub use presets::{SecretPreset, presets};
pub use report::{to_github, to_json, to_sarif};
pub use schema::policy_schema;
pub use verdict::{ConnectPermit, Denial, DenyReason, RequestPermit, Verdict};

#[cfg(test)]
mod tests;
