//! Many patterns, matched by label: the cost depends on the host's labels, never on the number of patterns.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::pattern::Hosts;
use super::{Host, HostPattern, Port, PortRule};

/// A set of host patterns, each with a value such as the rule that it belongs to.
#[derive(Clone, Debug)]
pub struct HostSet<T> {
    exact: ByName<T>,
    below: ByName<T>,
    any: Vec<Entry<T>>,
}

/// Sandboxes only look up, they never insert: a fast hash will do.
type ByName<T> = HashMap<Arc<str>, Vec<Entry<T>>, RandomState>;

#[derive(Clone, Debug)]
struct Entry<T> {
    ports: PortRule,
    value: T,
}

impl<T> HostSet<T> {
    /// An empty set, which matches nothing.
    #[must_use]
    pub fn new() -> Self {
        Self { exact: ByName::default(), below: ByName::default(), any: Vec::new() }
    }

    /// Adds a pattern with its value.
    pub fn insert(&mut self, pattern: &HostPattern, value: T) {
        let entry = Entry { ports: pattern.ports(), value };
        match &pattern.hosts {
            Hosts::Exact(host) => self.exact.entry(host.text.clone()).or_default().push(entry),
            Hosts::Below(apex) => self.below.entry(apex.text.clone()).or_default().push(entry),
            Hosts::Any => self.any.push(entry),
        }
    }

    /// The values whose pattern's host part matches, the most specific first, each with its port rule.
    pub fn matching<'a>(&'a self, host: &'a Host) -> impl Iterator<Item = (PortRule, &'a T)> {
        let exact = self.exact.get(host.as_str());
        let suffixes = if host.ip().is_none() { Some(suffixes(host.as_str())) } else { None };
        let below = suffixes.into_iter().flatten().filter_map(|suffix| self.below.get(suffix));
        let any = if host.ip().is_none() { Some(&self.any) } else { None };
        exact.into_iter().chain(below).chain(any).flatten().map(|entry| (entry.ports, &entry.value))
    }

    /// The values whose pattern matches host and port, the most specific first.
    pub fn matching_port<'a>(&'a self, host: &'a Host, port: Port) -> impl Iterator<Item = &'a T> {
        self.matching(host).filter(move |(ports, _)| ports.admits(port)).map(|(_, value)| value)
    }

    /// Whether no pattern was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty() && self.any.is_empty()
    }
}

impl<T> Default for HostSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// `a.b.c` → `b.c`, `c`: what stands behind each dot.
fn suffixes(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(name.split_once('.'), |(_, rest)| rest.split_once('.'))
        .map(|(_, rest)| rest)
}
