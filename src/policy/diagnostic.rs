//! What is wrong with a policy file, where, and what to write instead.
//!
//! A diagnostic is a finished text: it holds no secret value, and it shows a line of the file only where no `from:` reaches into it.

use std::cmp::Ordering;
use std::fmt;
use std::sync::{Arc, OnceLock};

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Element, Level, Origin, Renderer, Snippet};

/// Whether a finding keeps the policy from loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is loaded.
    Error,
    /// Loads, but is probably not what was meant.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// A stable name of the kind of finding, such as `unknown-field`.
    pub code: &'static str,
    /// The file as it was named.
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The column behind the last character, on the same line.
    pub end_column: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Another place that belongs to the finding, such as the first of two equal keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<Related>,
    /// The line as written, where it may be shown.
    #[serde(skip)]
    source_line: Option<String>,
}

/// A second place.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Related {
    /// The file as it was named.
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What stands there.
    pub message: String,
}

impl Diagnostic {
    /// An error at a place.
    pub(super) fn error(code: &'static str, place: &Place, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, place, message.into())
    }

    /// A warning at a place.
    pub(super) fn warning(code: &'static str, place: &Place, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, place, message.into())
    }

    /// An error about a file as a whole.
    pub(super) fn of_file(code: &'static str, file: &str, message: impl Into<String>) -> Self {
        let nowhere = Place { source: Arc::new(Source::new(file, "")), span: Span::START };
        Self::error(code, &nowhere, message)
    }

    fn new(severity: Severity, code: &'static str, place: &Place, message: String) -> Self {
        let source_line = place.source.shown_line(place.span).map(str::to_owned);
        Self {
            severity,
            code,
            file: place.source.path.clone(),
            line: place.span.line,
            column: place.span.column,
            end_column: place.end_column(),
            message,
            hint: None,
            related: Vec::new(),
            source_line,
        }
    }

    /// The same with a hint.
    #[must_use]
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with a second place.
    #[must_use]
    pub(super) fn related(mut self, place: &Place, message: impl Into<String>) -> Self {
        self.related.push(Related {
            file: place.source.path.clone(),
            line: place.span.line,
            column: place.span.column,
            message: message.into(),
        });
        self
    }

    /// The finding with its line, for a person.
    #[must_use]
    pub fn render(&self, colours: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = level.primary_title(&self.message).id(self.code).element(self.excerpt());
        for related in &self.related {
            let place = format!("{}:{}:{}", related.file, related.line, related.column);
            group = group.element(Level::NOTE.message(format!("{place}: {}", related.message)));
        }
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.message(hint));
        }
        let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
        renderer.decor_style(DecorStyle::Ascii).render(&[group])
    }

    fn excerpt(&self) -> Element<'_> {
        let Some(line) = &self.source_line else {
            return Origin::path(&*self.file).line(self.line).char_column(self.column).into();
        };
        let byte = |column: usize| {
            line.char_indices().nth(column.saturating_sub(1)).map_or(line.len(), |(at, _)| at)
        };
        let span = byte(self.column)..byte(self.end_column);
        Snippet::source(line)
            .line_start(self.line)
            .path(&*self.file)
            .annotation(AnnotationKind::Primary.span(span))
            .into()
    }
}

impl fmt::Display for Diagnostic {
    /// One line: `file:line:column: error: message (hint)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { severity, file, line, column, message, .. } = self;
        write!(f, "{file}:{line}:{column}: {}: {message}", severity.as_str())?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

impl PartialOrd for Diagnostic {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Diagnostic {
    /// By place; at one place errors first.
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |d: &Self| (d.file.clone(), d.line, d.column, d.severity, d.code);
        key(self).cmp(&key(other)).then_with(|| self.message.cmp(&other.message))
    }
}

/// A stretch of a source text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// The first byte.
    pub(super) start: usize,
    /// Behind the last byte.
    pub(super) end: usize,
    /// The line of the first byte, from 1.
    pub(super) line: usize,
    /// The column of the first byte, from 1, in characters.
    pub(super) column: usize,
}

impl Span {
    /// The start of a file.
    pub(super) const START: Self = Self { start: 0, end: 0, line: 1, column: 1 };
}

/// A file's text, kept while its mistakes are looked for.
#[derive(Debug)]
pub(super) struct Source {
    path: Arc<str>,
    text: String,
    hidden: OnceLock<Vec<std::ops::Range<usize>>>,
}

impl Source {
    pub(super) fn new(path: &str, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into(), hidden: OnceLock::new() }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Says which bytes may hold secret values. Until it is called, no line is shown.
    pub(super) fn hide(&self, ranges: Vec<std::ops::Range<usize>>) {
        self.hidden.get_or_init(|| ranges);
    }

    /// The line on which a span starts, unless a part of it may hold a value.
    fn shown_line(&self, span: Span) -> Option<&str> {
        let hidden = self.hidden.get()?;
        let before = self.text.get(..span.start)?;
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let rest = self.text.get(start..)?;
        let line = rest.split('\n').next().unwrap_or(rest).trim_end_matches('\r');
        let end = start + line.len();
        let touched = hidden.iter().any(|range| range.start <= end && start <= range.end);
        (!touched && line.len() <= 400 && !line.contains(char::is_control)).then_some(line)
    }
}

/// A span in its file.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) source: Arc<Source>,
    pub(super) span: Span,
}

impl Place {
    fn end_column(&self) -> usize {
        let text = self.source.text.get(self.span.start..self.span.end).unwrap_or("");
        let line = text.lines().next().unwrap_or("").trim_end();
        self.span.column + line.chars().count().max(1)
    }
}

/// A value with the place where it is written.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// The findings of one reading, bounded in number.
#[derive(Debug, Default)]
pub(super) struct Findings {
    list: Vec<Diagnostic>,
    errors: usize,
}

impl Findings {
    /// More than this many findings of one reading are counted, not kept.
    const KEPT: usize = 1_000;

    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        if diagnostic.severity == Severity::Error {
            self.errors += 1;
        }
        let first_error = self.errors == 1 && diagnostic.severity == Severity::Error;
        if self.list.len() < Self::KEPT || first_error {
            self.list.push(diagnostic);
        }
    }

    pub(super) const fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// All findings in the order of their places, each once.
    pub(super) fn sorted(mut self) -> Vec<Diagnostic> {
        self.list.sort();
        self.list.dedup();
        self.list
    }
}
