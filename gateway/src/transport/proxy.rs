//! PROXY protocol, version 2: a relay that we trust says in front of everything for whom it connects.
//!
//! - Bytes in, an address out. Who is trusted is admission's to say, and nobody else's header is looked for.
//! - The binary form alone: the text form of version 1 cannot be told from garbage by its first bytes, and relays that speak it speak this.
//! - What stands behind the addresses (TLVs) is skipped: none of it is ours to believe.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a header begins with. No frame, TLS record or HTTP request does.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED_BYTES: usize = 16;
/// Longest header, unless an operator says otherwise. Addresses are 36 bytes and what relays add (names, checksums, a TLS certificate's
/// subject) some hundred; nothing is kept for a longer one.
pub(crate) const HEADER_BYTES_MAX: usize = 2 * 1024;
/// What that may be set to at least: an IPv6 address and nothing behind it.
pub(crate) const HEADER_BYTES_MIN: usize = FIXED_BYTES + 36;
/// And at most: longer ones cannot be written.
pub(crate) const HEADER_BYTES_LONGEST: usize = FIXED_BYTES + u16::MAX as usize;

/// For whom a relay connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// For itself, to see whether we are well: its own address is the one that counts.
    Local,
    /// For somebody at this address.
    Client(IpAddr),
}

/// No header of version 2, or one that says nothing we can go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a PROXY header of version 2 for TCP")]
pub(crate) struct NotProxy;

/// Takes the header, of at most `bytes_max`, at the front of `input`: for whom, and the bytes it took, or `None` when more must arrive.
///
/// # Errors
/// As soon as it can be seen that there is none.
pub(crate) fn parse(input: &[u8], bytes_max: usize) -> Result<Option<(Source, usize)>, NotProxy> {
    let begun = input.len().min(SIGNATURE.len());
    if input[..begun] != SIGNATURE[..begun] {
        return Err(NotProxy);
    }
    let Some((fixed, rest)) = input.split_at_checked(FIXED_BYTES) else { return Ok(None) };
    let (command, family) = (fixed[12], fixed[13]);
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if FIXED_BYTES + length > bytes_max || !matches!(command, LOCAL | PROXY) {
        return Err(NotProxy);
    }
    let Some(block) = rest.get(..length) else { return Ok(None) };
    let source = match (command, family) {
        // Whatever addresses stand there are to be passed over.
        (LOCAL, _) => Source::Local,
        (_, TCP_OVER_IPV4) if length >= 12 => Source::Client(IpAddr::V4(Ipv4Addr::from(first::<4>(block)))),
        (_, TCP_OVER_IPV6) if length >= 36 => Source::Client(IpAddr::V6(Ipv6Addr::from(first::<16>(block))).to_canonical()),
        // Unix sockets and UDP do not come by this door, and limits cannot be kept for "unspecified".
        _ => return Err(NotProxy),
    };
    Ok(Some((source, FIXED_BYTES + length)))
}

/// The client's address stands in front.
fn first<const N: usize>(block: &[u8]) -> [u8; N] {
    std::array::from_fn(|at| block[at])
}

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

#[cfg(test)]
mod tests {
    use super::{FIXED_BYTES, HEADER_BYTES_MAX, NotProxy, SIGNATURE, Source};
    use proptest::prelude::*;
    use std::net::IpAddr;

    fn parse(input: &[u8]) -> Result<Option<(Source, usize)>, NotProxy> {
        super::parse(input, HEADER_BYTES_MAX)
    }

    fn header(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, block].concat()
    }

    fn of(client: IpAddr, tlvs: &[u8]) -> Vec<u8> {
        let (family, addresses) = match client {
            IpAddr::V4(client) => (0x11, [client.octets(), [10, 0, 0, 1]].concat()),
            IpAddr::V6(client) => (0x21, [client.octets(), [0xfd; 16]].concat()),
        };
        header(0x21, family, &[&addresses, &[0x30, 0x39, 0x1f, 0x95][..], tlvs].concat())
    }

    /// The example of the specification, section 2.2, and what HAProxy writes for a check of its own.
    #[test]
    fn a_header_as_the_specification_has_it() {
        let example = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x02\x30\x39\x1f\x95";
        assert_eq!(parse(example), Ok(Some((Source::Client("192.0.2.1".parse().unwrap()), 28))));
        assert_eq!(parse(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"), Ok(Some((Source::Local, 16))));
    }

    #[test]
    fn what_is_no_header_of_a_client_is_refused() {
        let long = vec![0; HEADER_BYTES_MAX - FIXED_BYTES + 1];
        let cases = [
            ("version 1", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec()),
            ("another version", header(0x11, 0x11, &[0; 12])),
            ("another command", header(0x22, 0x11, &[0; 12])),
            ("unspecified", header(0x21, 0x00, &[])),
            ("UDP", header(0x21, 0x12, &[0; 12])),
            ("a Unix socket", header(0x21, 0x31, &[0; 216])),
            ("too short for IPv4", header(0x21, 0x11, &[0; 11])),
            ("too short for IPv6", header(0x21, 0x21, &[0; 35])),
            ("too long", header(0x21, 0x11, &long)),
            ("the last byte of the signature", b"\r\n\r\n\0\r\nQUIT\r".to_vec()),
        ];
        for (what, bytes) in cases {
            assert_eq!(parse(&bytes), Err(NotProxy), "{what}");
        }
        let longest = header(0x21, 0x11, &long[1..]);
        assert_eq!(parse(&longest), Ok(Some((Source::Client(IpAddr::from([0, 0, 0, 0])), HEADER_BYTES_MAX))));
        // As its claim says, before it has come.
        assert_eq!(super::parse(&longest[..FIXED_BYTES], HEADER_BYTES_MAX - 1), Err(NotProxy));
        assert_eq!(super::parse(&header(0x21, 0x11, &long), HEADER_BYTES_MAX + 1).map(|taken| taken.is_some()), Ok(true));
    }

    #[test]
    fn an_ipv4_address_in_ipv6_is_the_ipv4_address() {
        let (source, _) = parse(&of("::ffff:192.0.2.7".parse().unwrap(), &[])).unwrap().unwrap();
        assert_eq!(source, Source::Client("192.0.2.7".parse().unwrap()));
    }

    proptest! {
        /// However it is cut, more is asked for until it is whole, and what follows is not touched.
        #[test]
        fn a_header_is_whole_at_its_last_byte(
            client in any::<IpAddr>(),
            tlvs in proptest::collection::vec(any::<u8>(), 0..200),
            behind in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let bytes = of(client, &tlvs);
            for cut in 0..bytes.len() {
                prop_assert_eq!(parse(&bytes[..cut]), Ok(None));
            }
            let all = [&bytes[..], &behind].concat();
            prop_assert_eq!(parse(&all), Ok(Some((Source::Client(client.to_canonical()), bytes.len()))));
        }

        /// Nothing makes it panic, and nothing makes it wait for more than the longest header.
        #[test]
        fn any_bytes_are_answered(
            prefix in 0..=SIGNATURE.len(),
            bytes in proptest::collection::vec(any::<u8>(), 0..3_000),
        ) {
            let all = [&SIGNATURE[..prefix], &bytes].concat();
            match parse(&all) {
                Ok(None) => prop_assert!(all.len() < HEADER_BYTES_MAX),
                Ok(Some((_, used))) => prop_assert!(used <= all.len() && used <= HEADER_BYTES_MAX),
                Err(NotProxy) => {}
            }
        }
    }
}
