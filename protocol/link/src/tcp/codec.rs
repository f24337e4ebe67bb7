//! Envelopes to bytes and back. No socket.
//!
//! A length is believed only as far as bytes have come: memory grows with what was received, never with what was announced.

use crate::LinkError;
use crate::message::{Envelope, envelope::Kind};
use bytes::{Buf, BufMut, BytesMut};
use prost::Message;

/// Bytes of the length before each envelope.
const PREFIX_BYTES: usize = 4;
const _: () = assert!(super::ENVELOPE_BYTES_MAX <= u32::MAX as usize, "a length is four bytes on the wire");

/// Takes the first envelope out of `input`; `None` until all of it is there. The kind is `None` where a newer peer sends one
/// that is not known here.
pub(super) fn decode(input: &mut BytesMut, bytes_max: usize, peer: &str) -> Result<Option<Envelope>, LinkError> {
    let Some(prefix) = input.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    let bytes = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
    if bytes > bytes_max {
        return Err(LinkError::TooLarge { peer: peer.to_owned(), bytes, max: bytes_max });
    }
    let Some(body) = input.get(PREFIX_BYTES..PREFIX_BYTES + bytes) else { return Ok(None) };
    let envelope = Envelope::decode(body).map_err(|cause| LinkError::Garbage { peer: peer.to_owned(), cause })?;
    input.advance(PREFIX_BYTES + bytes);
    Ok(Some(envelope))
}

/// Appends an envelope; `Err` with its length, and nothing appended, when the peer would not take it.
pub(super) fn encode(kind: Kind, output: &mut BytesMut) -> Result<(), usize> {
    let envelope = Envelope::from(kind);
    let bytes = envelope.encoded_len();
    let prefix = u32::try_from(bytes).ok().filter(|_| bytes <= super::ENVELOPE_BYTES_MAX).ok_or(bytes)?;
    output.reserve(PREFIX_BYTES + bytes);
    output.put_u32(prefix);
    envelope.encode(output).expect("room was reserved, and BytesMut grows anyway");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{
        Biz, Gone, Hello, Interest, Kick, Moved, Order, Ordered, Origin, Push, Redeliver, Relay, RollCall, RoomPush, Seats, Sync, Synced,
        Up, UserPush, Users, reply, up,
    };
    use crate::tcp::{ENVELOPE_BYTES_MAX, TEXT_BYTES_MAX};
    use proptest::prelude::*;

    fn any_push() -> impl Strategy<Value = Push> {
        let ids = (any::<i32>(), any::<i64>(), any::<i64>(), any::<i64>());
        (ids, "\\PC{0,64}", "[0-9r-]{0,20}", "[a-z]{0,8}", 0..2i32, 0..4i32).prop_map(|(ids, data, msg_id, key, qos, class)| Push {
            biz_code: ids.0,
            data,
            msg_id,
            room_id: ids.1,
            seq: ids.2,
            ts: ids.3,
            qos,
            class,
            key,
        })
    }

    fn any_kind() -> impl Strategy<Value = Kind> {
        let origin = (any::<i32>(), any::<i64>(), any::<u32>(), any::<u64>()).prop_map(|(app_id, user_id, device, session)| Origin {
            app_id,
            user_id,
            device,
            session,
        });
        let reply = |id, result| Kind::Reply(crate::message::Reply { id, result: Some(result) });
        let call = prop_oneof![
            (any::<i64>(), "\\PC{0,64}").prop_map(|(room_id, text)| up::Call::Order(Order { room_id, text })),
            Just(up::Call::Redeliver(Redeliver {})),
            (any::<i64>(), any::<i64>(), "[0-9-]{0,20}", any::<bool>())
                .prop_map(|(room_id, from_seq, from_id, resume)| up::Call::Sync(Sync { room_id, from_seq, from_id, resume })),
        ];
        let kick = (any::<i32>(), any::<i64>(), any::<u64>(), "\\PC{0,32}").prop_map(|(app_id, user_id, session, msg)| Kick {
            app_id,
            user_id,
            session,
            msg,
            ..Kick::default()
        });
        let users = proptest::collection::vec(any::<i64>(), 0..32);
        let biz = (any::<i64>(), any::<i32>(), "\\PC{0,64}", "[a-z0-9]{0,20}").prop_map(|(room_id, biz_code, data, msg_id)| Biz {
            room_id,
            biz_code,
            data,
            msg_id,
        });
        prop_oneof![
            (any::<u64>(), proptest::option::of(origin.clone()), call).prop_map(|(id, origin, call)| Kind::Up(Up {
                id,
                origin,
                call: Some(call)
            })),
            (proptest::option::of(origin.clone()), users.clone(), any::<bool>())
                .prop_map(|(origin, room_ids, logged_out)| Kind::Gone(Gone { origin, room_ids, logged_out })),
            (any::<i64>(), any::<u64>(), any::<u32>()).prop_map(|(room_id, epoch, number)| Kind::RollCall(RollCall {
                room_id,
                epoch,
                number
            })),
            (any::<u64>(), proptest::collection::vec(origin.clone(), 0..8), any::<u32>(), any::<bool>())
                .prop_map(|(epoch, members, parts, last)| Kind::Seats(Seats { room_id: 7, epoch, number: 1, members, parts, last })),
            (any::<i64>(), any::<bool>(), any::<i64>())
                .prop_map(|(room_id, interested, last_seq)| { Kind::Interest(Interest { room_id, interested, members: 1, last_seq }) }),
            (any::<i32>(), users.clone(), any::<bool>()).prop_map(|(app_id, user_ids, online)| Kind::Users(Users {
                app_id,
                user_ids,
                online
            })),
            ("[a-z0-9-]{0,16}", any::<u64>(), kick).prop_map(|(node, incarnation, kick)| Kind::Relay(Relay {
                node,
                incarnation,
                kick: Some(kick)
            })),
            (users, proptest::option::of(any_push()), any::<u64>())
                .prop_map(|(user_ids, push, session)| { Kind::UserPush(UserPush { app_id: 10_001, user_ids, push, session }) }),
            ("[a-z0-9-]{0,16}", any::<u32>(), any::<u32>()).prop_map(|(node, credit, kind)| Kind::Hello(Hello {
                node,
                credit,
                kind,
                ..Hello::default()
            })),
            (any::<u64>(), "[a-z0-9-]{0,16}").prop_map(move |(id, owner)| reply(id, reply::Result::Moved(Moved { owner }))),
            (any::<u64>(), "\\PC{0,64}").prop_map(move |(id, text)| reply(id, reply::Result::Ordered(Ordered { text }))),
            (any::<u64>(), proptest::option::of(origin), biz).prop_map(|(id, origin, biz)| Kind::Up(Up {
                id,
                origin,
                call: Some(up::Call::Biz(biz))
            })),
            (proptest::option::of(any_push()), any::<u64>(), any::<i64>(), any::<u32>()).prop_map(
                |(push, epoch, except_user_id, keep_permille)| Kind::RoomPush(RoomPush { push, epoch, except_user_id, keep_permille })
            ),
            (any::<u64>(), any::<bool>()).prop_map(|(nonce, reply)| Kind::Ping(crate::message::Ping { nonce, reply })),
            (any::<u64>(), any::<i64>(), "\\PC{0,2000}").prop_map(|(id, room_id, data)| Kind::Reply(crate::message::Reply {
                id,
                result: Some(reply::Result::Synced(Synced { room_id, data }))
            })),
        ]
    }

    /// What the fuzzer begins with is what it says: an envelope, or the one that is too large.
    #[test]
    fn the_seeds_of_the_fuzzer_are_envelopes() {
        let seeds = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/envelope")).expect("they are committed");
        let mut count = 0;
        for seed in seeds {
            let seed = seed.expect("a file");
            let bytes = std::fs::read(seed.path()).expect("it can be read");
            let mut input = BytesMut::from(&bytes[1 + usize::from(bytes[0])..]);
            let decoded = decode_all(&mut input);
            let is_refused = matches!(decoded, Err(LinkError::TooLarge { .. }));
            assert_eq!(is_refused, seed.file_name() == "too-large", "{:?}: {decoded:?}", seed.path());
            assert!(is_refused || input.is_empty(), "{:?}", seed.path());
            count += 1;
        }
        assert!(count >= 20, "{count} seeds");
    }

    fn decode_all(input: &mut BytesMut) -> Result<Vec<Kind>, LinkError> {
        let mut kinds = Vec::new();
        while let Some(envelope) = decode(input, ENVELOPE_BYTES_MAX, "peer")? {
            kinds.extend(envelope.kind);
        }
        Ok(kinds)
    }

    proptest! {
        /// TCP may cut the stream anywhere; the envelopes that come out must not depend on where.
        #[test]
        fn cuts_do_not_change_envelopes(kinds in proptest::collection::vec(any_kind(), 0..8), cut in 1usize..64) {
            let mut bytes = BytesMut::new();
            for kind in &kinds {
                encode(kind.clone(), &mut bytes).expect("small");
            }
            let mut input = BytesMut::new();
            let mut decoded = Vec::new();
            for piece in bytes.chunks(cut) {
                input.extend_from_slice(piece);
                decoded.extend(decode_all(&mut input).expect("well formed"));
            }
            prop_assert_eq!(decoded, kinds);
            prop_assert!(input.is_empty());
        }

        /// Whatever a peer sends: an answer, no panic, and every round takes something or stops.
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let mut input = BytesMut::from(&bytes[..]);
            let before = input.len();
            match decode_all(&mut input) {
                Ok(kinds) => prop_assert!(kinds.is_empty() || input.len() < before),
                Err(LinkError::TooLarge { bytes, .. }) => prop_assert!(bytes > ENVELOPE_BYTES_MAX),
                Err(LinkError::Garbage { .. }) => {}
                Err(other) => prop_assert!(false, "{other}"),
            }
        }

        /// The same behind an honest length, so that the protobuf decoder is what is met.
        #[test]
        fn any_body_is_decoded_or_refused(body in proptest::collection::vec(any::<u8>(), 0..512)) {
            let mut input = BytesMut::new();
            input.put_u32(u32::try_from(body.len()).expect("small"));
            input.extend_from_slice(&body);
            match decode(&mut input, ENVELOPE_BYTES_MAX, "peer") {
                Ok(Some(_)) => prop_assert!(input.is_empty()),
                Err(LinkError::Garbage { .. }) => {}
                other => prop_assert!(false, "{other:?}"),
            }
        }

        /// A peer that stops in the middle: nothing is made of the half that came, and nothing more than it is held.
        #[test]
        fn half_an_envelope_is_waited_for(kind in any_kind(), place: prop::sample::Index) {
            let mut whole = BytesMut::new();
            encode(kind, &mut whole).expect("small");
            let half = place.index(whole.len());
            let mut input = BytesMut::from(&whole[..half]);
            let held = input.capacity();
            prop_assert!(matches!(decode(&mut input, ENVELOPE_BYTES_MAX, "peer"), Ok(None)));
            prop_assert_eq!((input.len(), input.capacity()), (half, held));
        }

        /// The same with a length that says that the half is all. What is read of it is no larger than what came: a number takes one
        /// byte on the wire and eight here.
        #[test]
        fn half_an_envelope_that_passes_for_a_whole_is_decoded_or_refused(kind in any_kind(), place: prop::sample::Index) {
            let mut whole = BytesMut::new();
            encode(kind, &mut whole).expect("small");
            let body = &whole[PREFIX_BYTES..];
            let half = &body[..place.index(body.len() + 1)];
            let mut input = BytesMut::new();
            input.put_u32(u32::try_from(half.len()).expect("small"));
            input.extend_from_slice(half);
            match decode(&mut input, ENVELOPE_BYTES_MAX, "peer") {
                Ok(Some(envelope)) => prop_assert!(envelope.encoded_len() <= half.len()),
                Err(LinkError::Garbage { .. }) => {}
                other => prop_assert!(false, "{other:?}"),
            }
        }

        /// A valid stream with one byte changed.
        #[test]
        fn a_damaged_stream_is_decoded_or_refused(kind in any_kind(), place: prop::sample::Index, flip in 1u8..) {
            let mut input = BytesMut::new();
            encode(kind, &mut input).expect("small");
            let place = place.index(input.len());
            input[place] ^= flip;
            let answered = matches!(
                decode_all(&mut input),
                Ok(_) | Err(LinkError::Garbage { .. } | LinkError::TooLarge { .. })
            );
            prop_assert!(answered);
        }
    }

    #[test]
    fn a_length_one_above_the_bound_is_refused_before_its_bytes_come() {
        for (announced, refused) in [(ENVELOPE_BYTES_MAX, false), (ENVELOPE_BYTES_MAX + 1, true), (u32::MAX as usize, true)] {
            let mut input = BytesMut::new();
            input.put_u32(u32::try_from(announced).expect("fits"));
            let held = input.capacity();
            match decode(&mut input, ENVELOPE_BYTES_MAX, "peer") {
                Err(LinkError::TooLarge { bytes, max, .. }) => assert!(refused && bytes == announced && max == ENVELOPE_BYTES_MAX),
                Ok(None) => assert!(!refused),
                other => panic!("{other:?}"),
            }
            assert_eq!(input.capacity(), held, "an announcement alone must not cost memory");
        }
    }

    #[test]
    fn the_longest_text_fits_with_the_largest_of_all_that_stands_beside_it() {
        let biz = Biz {
            room_id: i64::MIN,
            biz_code: i32::MIN,
            data: "x".repeat(TEXT_BYTES_MAX),
            // As long as an id of a client may be.
            msg_id: "i".repeat(64),
        };
        let origin = Origin { app_id: i32::MIN, user_id: i64::MIN, device: u32::MAX, session: u64::MAX };
        let up = Up { id: u64::MAX, origin: Some(origin), call: Some(up::Call::Biz(biz)) };
        encode(Kind::Up(up), &mut BytesMut::new()).expect("fits");
    }

    #[test]
    fn an_envelope_the_peer_would_not_take_is_not_written() {
        let kind = |bytes: usize| {
            Kind::Reply(crate::message::Reply {
                id: 1,
                result: Some(reply::Result::Synced(Synced { room_id: 1, data: "x".repeat(bytes) })),
            })
        };
        let mut output = BytesMut::new();
        encode(kind(ENVELOPE_BYTES_MAX - 64), &mut output).expect("fits");
        let written = output.len();
        encode(kind(ENVELOPE_BYTES_MAX), &mut output).expect_err("does not fit");
        assert_eq!(output.len(), written);
    }
}
