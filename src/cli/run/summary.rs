//! What is said at the end.

use crate::audit::Denials;
use crate::cli::Terminal;
use crate::secret::StoreName;

/// What was denied, and the lines of a policy that would allow it, in the sandbox's last store.
pub(super) fn summarise(denials: &Denials, store: Option<&StoreName>, terminal: &mut Terminal) {
    let (seen, others) = denials.seen();
    if seen.is_empty() {
        return;
    }
    terminal.note("tollgate: denied:");
    for (refused, count) in &seen {
        let port = refused.port.map_or_else(String::new, |port| format!(":{port}"));
        let host = if refused.host.is_empty() { "(no host)" } else { &refused.host };
        let host = host.escape_debug();
        terminal.note(format_args!("  {count:>5} × {host}{port}  {}", refused.reason));
    }
    if others > 0 {
        terminal.note(format_args!("  {others:>5} × others"));
    }
    let mut entries: Vec<_> = seen.iter().filter_map(|(refused, _)| refused.entry()).collect();
    entries.dedup();
    if !entries.is_empty() {
        terminal.note("tollgate: to allow what is wanted, add to the policy:");
        if let Some(store) = store {
            terminal.note(format_args!("secretStores:\n  {store}:"));
        }
        terminal.note("    egressAllowlist:");
        for entry in entries {
            terminal.note(format_args!("      - {entry}"));
        }
    }
}
