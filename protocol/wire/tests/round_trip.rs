//! Whatever body is legal comes back as it was, in either encoding, and through a frame.

use billfish_wire::{
    Body, Code, Encoding, Resume,
    frame::{decode, encode},
    limits::{APP_ID_MIN, BODY_BYTES_MAX, ID_MAX, USER_ID_MIN},
    snapshot::{RoomSnapshot, SyncPage},
};
use proptest::{collection, option, prelude::*};

fn id() -> BoxedStrategy<Option<i64>> {
    option::of(prop_oneof![Just(0), Just(ID_MAX), 0..=ID_MAX]).boxed()
}

/// Text without control characters, at most 64 bytes long.
fn short() -> BoxedStrategy<Option<String>> {
    option::of("[ -~äß€😀\"\\\\]{0,16}").boxed()
}

/// Text as a service may write it: quotes, control characters, everything.
fn long() -> BoxedStrategy<Option<String>> {
    option::of(any::<String>()).boxed()
}

fn resume() -> impl Strategy<Value = Option<Resume>> {
    let of_join = (0..=ID_MAX).prop_map(|seq| Resume { seq: Some(seq), ..Resume::default() });
    let of_login =
        (short(), collection::btree_map(0..=ID_MAX, 0..=ID_MAX, 0..=8)).prop_map(|(inbox, rooms)| Resume { inbox, rooms, seq: None });
    option::of(prop_oneof![of_join, of_login])
}

fn any_body() -> impl Strategy<Value = Body> {
    let who = (option::of(APP_ID_MIN..), option::of(USER_ID_MIN..=ID_MAX), short(), short(), short(), short(), resume());
    let message =
        (option::of(any::<i32>()), long(), short(), id(), id(), id(), option::of(any::<i32>()), option::of(any::<i32>()), short());
    let answer = (short(), option::of(any::<i32>()), id(), long(), id(), option::of(any::<i32>()), long());
    let rest = (id(), short(), collection::vec(any::<String>(), 0..4), id(), id());
    (who, message, answer, rest).prop_map(|(who, message, answer, rest)| {
        let (app_id, user_id, token, device_id, platform, version, resume) = who;
        let (biz_code, data, msg_id, room_id, seq, ts, qos, class, key) = message;
        let (session_id, heartbeat_secs, server_time, node, audience, code, msg) = answer;
        let (from_seq, from_id, addresses, after_ms, retry_after_ms) = rest;
        Body {
            app_id,
            user_id,
            token,
            biz_code,
            data,
            msg_id,
            room_id,
            seq,
            ts,
            qos,
            class,
            key,
            device_id,
            platform,
            version,
            resume,
            session_id,
            heartbeat_secs,
            server_time,
            node,
            audience,
            code,
            msg,
            from_seq,
            from_id,
            addresses,
            after_ms,
            retry_after_ms,
        }
    })
}

fn any_encoding() -> impl Strategy<Value = Encoding> {
    prop_oneof![Just(Encoding::Json), Just(Encoding::Protobuf)]
}

proptest! {
    #[test]
    fn a_body_comes_back_as_it_was(body in any_body(), encoding in any_encoding()) {
        let bytes = body.to_vec(encoding);
        prop_assert_eq!(Body::decode(encoding, &bytes).expect("what we write is legal"), body);
    }

    /// What one encoding can say, the other can: a gateway may take a body in JSON and hand it on in protobuf.
    #[test]
    fn a_body_survives_a_change_of_encoding(body in any_body()) {
        let as_protobuf = Body::decode(Encoding::Protobuf, &body.to_vec(Encoding::Protobuf)).expect("legal");
        let as_json = Body::decode(Encoding::Json, &as_protobuf.to_vec(Encoding::Json)).expect("legal");
        prop_assert_eq!(as_json, body);
    }

    #[test]
    fn a_frame_comes_back_as_it_was(body in any_body(), encoding in any_encoding(), code in 0..Code::ALL.len()) {
        let code = Code::ALL[code];
        let bytes = encode(encoding, code, &body);
        let (frame, taken) = decode(&bytes, BODY_BYTES_MAX).expect("legal").expect("whole");
        prop_assert_eq!(taken, bytes.len());
        prop_assert_eq!((frame.encoding, frame.code), (encoding, code.number()));
        prop_assert_eq!(Body::decode(encoding, frame.body).expect("legal"), body);
    }

    /// No bytes make the decoder panic, and what it believes it can say again.
    #[test]
    fn noise_is_refused_or_stable(noise in collection::vec(any::<u8>(), 0..120), encoding in any_encoding()) {
        if let Ok(body) = Body::decode(encoding, &noise) {
            for encoding in Encoding::ALL {
                prop_assert_eq!(&Body::decode(encoding, &body.to_vec(encoding)).expect("what was believed is legal"), &body);
            }
        }
    }

    #[test]
    fn snapshots_and_pages_come_back_as_they_were(
        messages in collection::vec(any_body(), 0..3),
        states in collection::btree_map("[a-z]{1,8}", any_body(), 0..3),
        audience in 0..=ID_MAX,
        flags in any::<(bool, bool)>(),
    ) {
        let snapshot = RoomSnapshot { audience, states, messages: messages.clone(), gap: flags.0 };
        let text = serde_json::to_string(&snapshot).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<RoomSnapshot>(&text).expect("our own"), snapshot);
        let page = SyncPage { messages, more: flags.0, gap: flags.1 };
        let text = serde_json::to_string(&page).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<SyncPage>(&text).expect("our own"), page);
    }
}
