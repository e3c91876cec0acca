//! What is allowed: no I/O, no clock, no async.
//!
//! Written policy ([`file`]) → checked and compiled ([`compile`]) → one immutable [`EffectivePolicy`] per sandbox, which is both what is
//! enforced ([`decide_connect`], [`decide_request`], [`decide_address`]) and what is shown ([`explain`]).

mod decide;
mod effective;
mod path;
mod verdict;

pub use decide::{OwnSockets, decide_address, decide_connect, decide_request};
pub use effective::{
    AllowRule, Allowlist, BoundSecret, EffectivePolicy, OperatorRules, PolicyDigest, PolicyParts,
    PrivateAccess, RuleName,
};
pub use path::{NormalPath, PathFault, PathGlob, PathGlobError};
pub use verdict::{ConnectPermit, Denial, DenyReason, RequestPermit, Verdict};
