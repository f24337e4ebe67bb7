//! The golden inputs that a server refuses, against the server's end of a session: number, answer and close, before login and after.

use billfish_session::{
    Time,
    server::{LoginAccepted, ServerAction, ServerActions, ServerConfig, ServerSession},
};
use billfish_vectors::{Direction, Refusal, frames, malformed};
use billfish_wire::{Body, Code, Encoding, Reassembler, frame::encode};

const NOW: Time = Time(1_000);

/// Feeds bytes as a shard does and gives what the machine wants done.
fn feed(session: &mut ServerSession, config: &ServerConfig, bytes: &[u8]) -> Vec<ServerAction> {
    let mut out = ServerActions::default();
    let mut reassembler = Reassembler::default();
    let mut frames = reassembler.feed(bytes);
    loop {
        match frames.next(session.body_bytes_max(config)) {
            Ok(Some(frame)) => session.on_frame(NOW, config, frame, &mut out),
            Ok(None) => break,
            Err(error) => {
                session.on_frame_error(error, &mut out);
                break;
            }
        }
    }
    std::iter::from_fn(|| out.next_action()).collect()
}

/// A session of user 10086 of app 10001, in the encoding of the vector.
fn live(config: &ServerConfig, encoding: Encoding) -> ServerSession {
    let mut session = ServerSession::new(NOW, config);
    let login = Body { app_id: Some(10_001), user_id: Some(10_086), token: Some("t".to_owned()), ..Body::default() };
    feed(&mut session, config, &encode(encoding, Code::Login, &login));
    assert!(session.is_authenticating());
    let accepted = LoginAccepted { session_id: "s-1".to_owned(), node: "gw-1".to_owned(), server_time_ms: 1 };
    session.on_login_accepted(NOW, config, accepted, &mut ServerActions::default());
    assert!(session.is_live());
    session
}

fn assert_refused(actions: &[ServerAction], expected: Refusal, about: &str) {
    let told: Vec<Option<i32>> = actions
        .iter()
        .filter_map(|action| if let ServerAction::Send { code: Code::Error, body } = action { Some(body.code) } else { None })
        .collect();
    let closed: Vec<Option<i32>> =
        actions.iter().filter_map(|action| if let ServerAction::Close(reason) = action { Some(reason.number()) } else { None }).collect();
    let number = Some(expected.reason);
    assert_eq!(told, if expected.answered { vec![number] } else { vec![] }, "{about}: {actions:?}");
    assert_eq!(closed, if expected.closes { vec![number] } else { vec![] }, "{about}: {actions:?}");
}

#[test]
fn every_refused_vector_gets_the_answer_it_names() {
    let config = ServerConfig::default();
    let (mut before_login, mut in_session) = (0, 0);
    for bad in malformed() {
        let bytes = bad.hex.bytes();
        if let Some(expected) = bad.before_login {
            let actions = feed(&mut ServerSession::new(NOW, &config), &config, &bytes);
            assert_refused(&actions, expected, &format!("{} before login", bad.name));
            before_login += 1;
        }
        if let Some(expected) = bad.session {
            let encoding = if bytes.starts_with(&Encoding::Protobuf.magic().to_be_bytes()) { Encoding::Protobuf } else { Encoding::Json };
            let mut session = live(&config, encoding);
            assert_refused(&feed(&mut session, &config, &bytes), expected, &format!("{} in a session", bad.name));
            assert_eq!(session.is_closed(), expected.closes, "{}", bad.name);
            in_session += 1;
        }
    }
    assert!(before_login > 50 && in_session > 50, "{before_login}, {in_session}");
}

#[test]
fn every_golden_frame_of_a_client_is_taken_by_a_session() {
    let config = ServerConfig::default();
    for golden in frames().iter().filter(|golden| golden.direction == Direction::Up) {
        let encoding = if golden.encoding == "json" { Encoding::Json } else { Encoding::Protobuf };
        let mut session = live(&config, encoding);
        let actions = feed(&mut session, &config, &golden.hex.bytes());
        assert!(!actions.is_empty(), "{} is answered, forwarded or noted", golden.name);
        for action in actions {
            assert!(!matches!(&action, ServerAction::Send { code: Code::Error, .. }), "{}: {action:?}", golden.name);
        }
    }
}
