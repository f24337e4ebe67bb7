//! The hello: who is there, in which version, and whether it knows the secret.
//!
//! The order of checks is part of the protocol: version first, so that a later version may change all the rest.

use super::{Identity, NODE_BYTES_MAX, codec};
use crate::message::{Hello, Welcome, envelope::Kind};
use crate::{CREDIT_ENVELOPES, LinkError, PeerKind, VERSION, VERSION_MIN};
use bytes::BytesMut;
use std::io;
use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes of a hello or welcome, for whoever sends it is not known yet: name and secret are short.
const HELLO_BYTES_MAX: usize = 4096;
/// How a router words that the secret is wrong. The dialler knows it by this.
const REFUSED_SECRET: &str = "bad secret";
const REFUSED_VERSION: &str = "version mismatch";
const REFUSED_NODE: &str = "bad node name";

/// What came of a hello.
#[derive(Debug)]
pub(super) struct Agreed {
    /// What the peer is.
    pub(super) kind: PeerKind,
    pub(super) node: String,
    pub(super) incarnation: u64,
    /// Envelopes that may be sent before the peer returns credit.
    pub(super) credit: usize,
}

pub(super) async fn dial<S>(
    stream: &mut S,
    input: &mut BytesMut,
    address: &str,
    identity: &Identity,
    credit: usize,
) -> Result<Agreed, LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let hello = Hello {
        version: VERSION,
        secret: identity.secret.clone(),
        node: identity.node.clone(),
        incarnation: identity.incarnation,
        credit: credit_number(credit),
        kind: identity.kind.number(),
        version_min: VERSION_MIN,
    };
    write(stream, Kind::Hello(hello), address).await?;
    let Kind::Welcome(welcome) = read(stream, input, address).await? else {
        return Err(LinkError::OutOfTurn { peer: address.to_owned(), what: "something other than a welcome" });
    };
    let peer = address.to_owned();
    if !(VERSION_MIN..=VERSION).contains(&welcome.version) || welcome.refused == REFUSED_VERSION {
        return Err(LinkError::VersionMismatch { peer, theirs: welcome.version, ours: VERSION });
    }
    match welcome.refused.as_str() {
        "" => {
            Ok(Agreed { node: welcome.node, kind: PeerKind::Router, incarnation: welcome.incarnation, credit: credit_of(welcome.credit) })
        }
        REFUSED_SECRET => Err(LinkError::BadSecret { peer }),
        _ => Err(LinkError::Refused { peer, reason: welcome.refused.chars().take(NODE_BYTES_MAX).collect() }),
    }
}

pub(super) async fn accept<S>(
    stream: &mut S,
    input: &mut BytesMut,
    address: &str,
    identity: &Identity,
    credit: usize,
) -> Result<Agreed, LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Kind::Hello(hello) = read(stream, input, address).await? else {
        return Err(LinkError::OutOfTurn { peer: address.to_owned(), what: "something other than a hello" });
    };
    let peer = address.to_owned();
    let agreed = agree((hello.version_min, hello.version), (VERSION_MIN, VERSION));
    let refusal = if agreed.is_none() {
        Some((REFUSED_VERSION, LinkError::VersionMismatch { peer, theirs: hello.version, ours: VERSION }))
    } else if !same_secret(&hello.secret, &identity.secret) {
        Some((REFUSED_SECRET, LinkError::BadSecret { peer }))
    } else if hello.node.is_empty() || hello.node.len() > NODE_BYTES_MAX {
        Some((REFUSED_NODE, LinkError::Refused { peer, reason: REFUSED_NODE.to_owned() }))
    } else {
        None
    };
    let refused = refusal.as_ref().map_or("", |(refused, _)| refused).to_owned();
    let welcome = match refused.as_str() {
        "" => Welcome {
            version: agreed.unwrap_or(VERSION),
            node: identity.node.clone(),
            refused,
            credit: credit_number(credit),
            incarnation: identity.incarnation,
        },
        // A stranger learns the version, and no more.
        _ => Welcome { version: VERSION, refused, ..Welcome::default() },
    };
    write(stream, Kind::Welcome(welcome), address).await?;
    match refusal {
        Some((_, error)) => Err(error),
        None => {
            Ok(Agreed { node: hello.node, kind: PeerKind::of(hello.kind), incarnation: hello.incarnation, credit: credit_of(hello.credit) })
        }
    }
}

/// What two ends speak, of the oldest and the newest version of each; `None` where they have none in common.
fn agree(theirs: (u32, u32), ours: (u32, u32)) -> Option<u32> {
    // One that does not name its oldest speaks one version.
    let oldest_of_theirs = if theirs.0 == 0 { theirs.1 } else { theirs.0 };
    let version = theirs.1.min(ours.1);
    (version >= oldest_of_theirs && version >= ours.0).then_some(version)
}

/// Takes as long for a near miss as for a wild guess. The length may be learned; an empty secret fits nothing.
fn same_secret(theirs: &str, ours: &str) -> bool {
    !ours.is_empty() && bool::from(theirs.as_bytes().ct_eq(ours.as_bytes()))
}

fn credit_number(credit: usize) -> u32 {
    u32::try_from(credit).unwrap_or(u32::MAX)
}

/// 0 comes from a peer that does not say. More than [`CREDIT_ENVELOPES`] is not made use of.
fn credit_of(number: u32) -> usize {
    match usize::try_from(number) {
        Ok(1..=CREDIT_ENVELOPES) => number as usize,
        _ => CREDIT_ENVELOPES,
    }
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, kind: Kind, address: &str) -> Result<(), LinkError> {
    let mut output = BytesMut::new();
    codec::encode(kind, &mut output).map_err(|bytes| LinkError::TooLarge {
        peer: address.to_owned(),
        bytes,
        max: super::ENVELOPE_BYTES_MAX,
    })?;
    let broken = |cause| LinkError::Broken { peer: address.to_owned(), cause };
    stream.write_all(&output).await.map_err(broken)
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S, input: &mut BytesMut, address: &str) -> Result<Kind, LinkError> {
    loop {
        if let Some(envelope) = codec::decode(input, HELLO_BYTES_MAX, address)? {
            let unknown = LinkError::OutOfTurn { peer: address.to_owned(), what: "an unknown envelope" };
            return envelope.kind.ok_or(unknown);
        }
        let read = stream.read_buf(input).await.and_then(|bytes| match bytes {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => Ok(bytes),
        });
        read.map_err(|cause| LinkError::Broken { peer: address.to_owned(), cause })?;
    }
}

#[cfg(test)]
mod tests {
    use super::agree;

    #[test]
    fn releases_next_to_each_other_speak_the_older_one_s_version_whichever_dials() {
        for (theirs, ours, spoken) in [
            ((1, 1), (1, 1), Some(1)),
            ((1, 2), (1, 1), Some(1)),
            ((2, 3), (1, 2), Some(2)),
            ((2, 3), (2, 3), Some(3)),
            ((2, 3), (1, 1), None),
            ((3, 4), (1, 2), None),
            // The first releases name no oldest.
            ((0, 1), (1, 2), Some(1)),
            ((0, 1), (2, 3), None),
            ((0, 2), (1, 1), None),
            // Nonsense.
            ((0, 0), (1, 1), None),
            ((5, 1), (1, 1), None),
        ] {
            assert_eq!(agree(theirs, ours), spoken, "{theirs:?} at {ours:?}");
            if theirs.0 != 0 {
                assert_eq!(agree(ours, theirs), spoken, "{ours:?} at {theirs:?}");
            }
        }
    }
}
