//! Promises of the product, kept on real sockets. One file per promise of the design; `support` is what they share.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::disallowed_methods,
    reason = "tests and their support may fail, dial and spawn as they like"
)]

/// Hostile cases, by area; a test is found by the case's id.
mod attacks;
/// The program as a person starts it, and what a served Tollgate tells its operator.
mod cli;
/// What the README shows and says is so.
mod readme;
/// Every secret in every place, by the program itself.
mod selftest;

/// Upstreams, Tollgate, sandboxes, and what is asserted after every test.
mod support;

/// Started by systemd.
mod activation;
/// Internal addresses stay out of reach.
mod addresses;
/// One event per request, in full, and nothing else.
mod audit;
/// AWS's clients, with sealed keys.
mod aws_clients;
/// Request bodies with a content coding, and what follows a body.
mod bodies;
/// Behind a corporate proxy.
mod chain;
/// Clients that people use, unchanged.
mod clients;
/// A denial tells one story at every layer.
mod denials;
/// Random requests arrive as they were sent.
mod differential;
/// What Tollgate depends on and does not own.
mod doctor;
/// Stopping without breaking what runs.
mod drain;
/// Encoded answers are read, or refused.
mod encodings;
/// What an operator may lift.
mod exceptions;
/// A real value that a sandbox should not know goes nowhere but where it is bound.
mod exposure;
/// A request with nothing to substitute leaves as it came.
mod fidelity;
/// Secrets that the proxy adds by itself.
mod inject;
/// What is told is what is enforced.
mod introspection;
/// A command whose only way out is Tollgate.
mod isolate;
/// Base first, fork last.
mod layers;
/// Every bound holds, and who reaches one is told.
mod limits;
/// Near misses cost no more than other bytes.
mod linear;
/// Large bodies stream in constant memory.
mod memory;
/// Tokens in WebSocket messages.
mod messages;
/// Sandboxes in network namespaces, behind the shipped rules.
mod netns;
/// Tokens in the shape that clients expect.
mod placeholders;
/// The places beside headers that a secret may be opted into.
mod places;
/// Upstream connections are used again, and never shared between sandboxes.
mod pool;
/// HTTP/1, HTTP/2, streams, WebSocket.
mod protocols;
/// Policies change while requests run.
mod reload;
/// Names lead to Tollgate, and nobody is asked.
mod responder;
/// Many sandboxes, told apart.
mod sandboxes;
/// An echoed value becomes its token again.
mod scrubbing;
/// Requests signed with secrets that never travel.
mod signing;
/// Where values come from, and what happens when they do not.
mod sources;
/// Sealed tokens become values, where they may.
mod substitution;
/// What is held back tells nothing of a guess.
mod timing;
/// Access tokens that Tollgate fetches, and those that a sandbox asks for.
mod tokens;
/// Connections that a firewall redirected.
mod transparent;
/// Upstreams are verified, always.
mod upstream_tls;
