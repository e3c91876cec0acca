//! The PROXY protocol, version 2: what a load balancer says of the client before the client's first byte.
//!
//! Only named load balancers are believed, and they must say it; for everybody else the header is no protocol that is carried. Version 1 is not
//! read. What is not TCP over IPv4 or IPv6 has no address that could be recognised, and is refused. Additional fields are skipped.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Who is behind a load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// A client.
    Client {
        /// Its address.
        source: SocketAddr,
        /// Where it wanted to go.
        destination: SocketAddr,
    },
    /// Nobody: the load balancer looks whether somebody listens.
    Nobody,
}

/// Reads one header, and not a byte more.
pub(super) async fn read(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Behind> {
    let mut head = [0; HEAD];
    io.read_exact(&mut head).await?;
    let [signature @ .., command, protocol, high, low] = head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if signature != SIGNATURE || length > LONGEST {
        return Err(malformed());
    }
    let mut rest = vec![0; length];
    io.read_exact(&mut rest).await?;
    match (command, protocol) {
        (LOCAL, _) => Ok(Behind::Nobody),
        (PROXY, TCP_OVER_IPV4) => addresses::<4>(&rest),
        (PROXY, TCP_OVER_IPV6) => addresses::<16>(&rest),
        _ => Err(malformed()),
    }
}

/// Source and destination address, source and destination port; what follows are additional fields.
fn addresses<const BYTES: usize>(rest: &[u8]) -> io::Result<Behind>
where
    IpAddr: From<[u8; BYTES]>,
{
    let (source, rest) = rest.split_first_chunk::<BYTES>().ok_or_else(malformed)?;
    let (destination, rest) = rest.split_first_chunk::<BYTES>().ok_or_else(malformed)?;
    let (source_port, rest) = rest.split_first_chunk::<2>().ok_or_else(malformed)?;
    let (destination_port, _fields) = rest.split_first_chunk::<2>().ok_or_else(malformed)?;
    let address = |ip: [u8; BYTES], port: [u8; 2]| {
        SocketAddr::new(IpAddr::from(ip).to_canonical(), u16::from_be_bytes(port))
    };
    Ok(Behind::Client {
        source: address(*source, *source_port),
        destination: address(*destination, *destination_port),
    })
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no PROXY header of version 2 for TCP")
}

const HEAD: usize = 16;
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// Addresses and additional fields, in bytes: more than any load balancer sends.
const LONGEST: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, protocol: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, protocol], &length, rest].concat()
    }

    const V4: [u8; 12] = [10, 0, 0, 5, 198, 51, 100, 7, 0xc0, 0, 1, 0xbb];

    fn client(source: &str, destination: &str) -> Behind {
        Behind::Client {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    #[tokio::test]
    async fn a_header_says_who_the_client_is_and_nothing_behind_it_is_taken() {
        let mut v6 = vec![0xfd; 32];
        v6.extend([0xc0, 0, 1, 0xbb]);
        let mapped = [[0; 10].as_slice(), &[255, 255, 10, 0, 0, 5]].concat().repeat(2);
        let mapped = [mapped, vec![0, 1, 0, 2]].concat();
        let fdfd = "[fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd]";
        for (header, expected) in [
            (header(PROXY, TCP_OVER_IPV4, &V4), client("10.0.0.5:49152", "198.51.100.7:443")),
            (
                header(PROXY, TCP_OVER_IPV4, &[&V4, [4, 0, 1, 0].as_slice()].concat()),
                client("10.0.0.5:49152", "198.51.100.7:443"),
            ),
            (
                header(PROXY, TCP_OVER_IPV6, &v6),
                client(&format!("{fdfd}:49152"), &format!("{fdfd}:443")),
            ),
            (header(PROXY, TCP_OVER_IPV6, &mapped), client("10.0.0.5:1", "10.0.0.5:2")),
            (header(LOCAL, 0, b""), Behind::Nobody),
            (header(LOCAL, TCP_OVER_IPV4, &V4), Behind::Nobody),
        ] {
            let bytes = [header.as_slice(), b"GET /"].concat();
            let mut io = bytes.as_slice();
            assert_eq!(read(&mut io).await.unwrap(), expected);
            assert_eq!(io, b"GET /");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_of_a_tcp_client_is_an_error() {
        let whole = header(PROXY, TCP_OVER_IPV4, &V4);
        for cut in 0..whole.len() {
            assert!(read(&mut &whole[..cut]).await.is_err(), "{cut}");
        }
        for bytes in [
            b"PROXY TCP4 10.0.0.5 198.51.100.7 49152 443\r\n".to_vec(),
            header(PROXY, 0x00, b""),
            header(PROXY, 0x12, &V4),
            header(PROXY, 0x31, &[0; 216]),
            header(PROXY, TCP_OVER_IPV4, &V4[..11]),
            header(PROXY, TCP_OVER_IPV6, &V4),
            header(0x22, TCP_OVER_IPV4, &V4),
            header(0x11, TCP_OVER_IPV4, &V4),
            header(LOCAL, 0, &vec![0; LONGEST + 1]),
            vec![0x16; 64],
        ] {
            assert!(read(&mut bytes.as_slice()).await.is_err(), "{}", bytes.escape_ascii());
        }
    }
}
