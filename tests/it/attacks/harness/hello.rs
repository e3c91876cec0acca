//! ClientHellos as no TLS library makes them: one of rustls's, cut open, its extensions changed, and closed again.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

/// The record that rustls sends for this name.
pub(crate) fn record(config: ClientConfig, name: &str) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same with other server_name extensions, each with these contents, in front of the other extensions.
pub(crate) fn with_server_names(record: &[u8], contents: &[Vec<u8>]) -> Vec<u8> {
    let added: Vec<_> = contents.iter().map(|content| (0, content.clone())).collect();
    edited(record, Some(0), &added)
}

/// The same with one more extension.
pub(crate) fn with_extension(record: &[u8], kind: u16, content: &[u8]) -> Vec<u8> {
    edited(record, None, &[(kind, content.to_vec())])
}

/// The content of a server_name extension: names with their types.
pub(crate) fn names(names: &[(u8, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, name) in names {
        list.push(*kind);
        list.extend(counted(name));
    }
    counted(&list)
}

/// The handshake message in records of one byte each.
pub(crate) fn in_single_bytes(record: &[u8]) -> Vec<u8> {
    record[5..].iter().flat_map(|byte| [record[0], record[1], record[2], 0, 1, *byte]).collect()
}

fn edited(record: &[u8], without: Option<u16>, added: &[(u16, Vec<u8>)]) -> Vec<u8> {
    // Record head 5, handshake head 4, version 2, random 32; then session id, suites, compression, extensions.
    let message = &record[9..];
    let mut at = 34;
    at += 1 + usize::from(message[at]);
    at += 2 + number(&message[at..]);
    at += 1 + usize::from(message[at]);
    let (front, mut rest) = (&message[..at], &message[at + 2..]);
    let mut extensions = Vec::new();
    for (kind, content) in added {
        extensions.extend(kind.to_be_bytes());
        extensions.extend(counted(content));
    }
    while !rest.is_empty() {
        let end = 4 + number(&rest[2..]);
        if without.map(usize::from) != Some(number(rest)) {
            extensions.extend_from_slice(&rest[..end]);
        }
        rest = &rest[end..];
    }
    let mut body = front.to_vec();
    body.extend(counted(&extensions));
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let mut handshake = vec![1, length[1], length[2], length[3]];
    handshake.extend(body);
    let mut whole = record[..3].to_vec();
    whole.extend(counted(&handshake));
    whole
}

fn number(bytes: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// The bytes behind their length in 16 bits.
fn counted(bytes: &[u8]) -> Vec<u8> {
    let mut counted = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    counted.extend_from_slice(bytes);
    counted
}
