//! What only a socket can do to a link: strangers, wrong hellos, broken and malicious peers.
#![expect(clippy::unwrap_used, reason = "a test that fails here says so")]

use billfish_link::message::{Credit, Envelope, Hello, Ping, Up, Welcome, envelope::Kind};
use billfish_link::tcp::{Acceptor, ENVELOPE_BYTES_MAX, Identity, NODE_BYTES_MAX, Timing, accept, dial};
use billfish_link::{Link, LinkError, VERSION, VERSION_MIN};
use prost::Message;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Nothing here takes long; what takes this long has hung.
const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_wrong_secret_is_refused_and_both_ends_know_why() {
    for (theirs, ours) in [("wrong", "s3cret"), ("s3cre", "s3cret"), ("", "s3cret"), ("s3cret", ""), ("", "")] {
        let (dialled, accepted) = meet(&identity("gateway-1", theirs), &identity("router-1", ours)).await;
        assert!(matches!(dialled, Err(LinkError::BadSecret { .. })), "{theirs:?} at {ours:?}: {dialled:?}");
        assert!(matches!(accepted, Err(LinkError::BadSecret { .. })), "{theirs:?} at {ours:?}: {accepted:?}");
    }
}

#[tokio::test]
async fn an_error_or_an_identity_never_shows_the_secret() {
    let identity = identity("gateway-1", "s3cret");
    let (dialled, accepted) = meet(&identity, &Identity { secret: "0ther".to_owned(), ..identity.clone() }).await;
    let shown = format!("{identity:?} {dialled:?} {accepted:?}");
    assert!(!shown.contains("s3cret") && !shown.contains("0ther"), "{shown}");
}

#[tokio::test]
async fn another_version_is_refused_and_both_ends_know_why() {
    let (mut stranger, accepting) = connect().await;
    send(&mut stranger, Kind::Hello(Hello { version: VERSION + 1, ..hello() })).await;
    let Some(Kind::Welcome(welcome)) = receive(&mut stranger).await else { panic!("no welcome") };
    assert_eq!((welcome.version, welcome.node.as_str(), welcome.refused.as_str()), (VERSION, "", "version mismatch"));
    assert_eq!(receive(&mut stranger).await, None, "a refusal closes");
    let refused = accepting.await.unwrap();
    assert!(matches!(refused, Err(LinkError::VersionMismatch { theirs, ours: VERSION, .. }) if theirs == VERSION + 1), "{refused:?}");

    // The other way round: a router of another version.
    let (mut router, dialling) = listen().await;
    assert!(matches!(receive(&mut router).await, Some(Kind::Hello(hello)) if hello.version == VERSION));
    send(&mut router, Kind::Welcome(Welcome { version: VERSION + 1, refused: "later".to_owned(), ..Welcome::default() })).await;
    let refused = dialling.await.unwrap();
    assert!(matches!(refused, Err(LinkError::VersionMismatch { theirs, ours: VERSION, .. }) if theirs == VERSION + 1), "{refused:?}");
}

#[tokio::test]
async fn the_next_release_is_spoken_to_in_this_one_s_version() {
    let (mut newer, accepting) = connect().await;
    send(&mut newer, Kind::Hello(Hello { version: VERSION + 1, version_min: VERSION, ..hello() })).await;
    let Some(Kind::Welcome(welcome)) = receive(&mut newer).await else { panic!("no welcome") };
    assert_eq!((welcome.version, welcome.refused.as_str()), (VERSION, ""));
    let mut link = accepting.await.unwrap().unwrap();
    send(&mut newer, Kind::Up(Up { id: 5, ..Up::default() })).await;
    assert!(matches!(in_time(link.receiver.recv()).await, Some(Kind::Up(up)) if up.id == 5));

    // The other way round: what this node says to a newer router lets that one choose.
    let (mut router, dialling) = listen().await;
    let Some(Kind::Hello(hello)) = receive(&mut router).await else { panic!("no hello") };
    assert_eq!((hello.version_min, hello.version), (VERSION_MIN, VERSION));
    send(&mut router, Kind::Welcome(Welcome { version: VERSION, node: "router-9".to_owned(), ..Welcome::default() })).await;
    assert_eq!(dialling.await.unwrap().unwrap().peer, "router-9");
}

#[tokio::test]
async fn a_release_that_speaks_this_one_s_version_no_more_is_refused_and_told_so() {
    let (mut later, accepting) = connect().await;
    send(&mut later, Kind::Hello(Hello { version: VERSION + 2, version_min: VERSION + 1, ..hello() })).await;
    let Some(Kind::Welcome(welcome)) = receive(&mut later).await else { panic!("no welcome") };
    assert_eq!((welcome.version, welcome.refused.as_str()), (VERSION, "version mismatch"));
    let refused = accepting.await.unwrap().unwrap_err();
    assert_eq!(refused.to_string().split_once(' ').unwrap().1, format!("speaks link version {}, this node speaks {VERSION}", VERSION + 2));
}

#[tokio::test]
async fn fields_that_a_later_release_has_added_are_passed_over() {
    let (mut newer, accepting) = connect().await;
    // Field 100 of the hello, and field 101 of the envelope around it.
    let mut inner = hello().encode_to_vec();
    inner.extend([0xa2, 0x06, 0x01, b'x']);
    let mut body = Envelope::from(Kind::Hello(Hello::default())).encode_to_vec()[..1].to_vec();
    body.push(u8::try_from(inner.len()).unwrap());
    body.extend(inner);
    body.extend([0xa8, 0x06, 0x07]);
    newer.write_u32(u32::try_from(body.len()).unwrap()).await.unwrap();
    newer.write_all(&body).await.unwrap();
    let Some(Kind::Welcome(welcome)) = receive(&mut newer).await else { panic!("no welcome") };
    assert_eq!(welcome.refused, "");
    assert_eq!(accepting.await.unwrap().unwrap().peer, "gateway-1");
}

#[tokio::test]
async fn a_refusal_in_words_reaches_the_dialler() {
    let (mut router, dialling) = listen().await;
    receive(&mut router).await;
    send(&mut router, Kind::Welcome(Welcome { version: VERSION, refused: "draining".to_owned(), ..Welcome::default() })).await;
    let refused = dialling.await.unwrap();
    assert!(matches!(&refused, Err(LinkError::Refused { reason, .. }) if reason == "draining"), "{refused:?}");
}

#[tokio::test]
async fn a_node_without_a_usable_name_is_refused() {
    for node in [String::new(), "n".repeat(NODE_BYTES_MAX + 1)] {
        let (dialled, accepted) = meet(&identity(&node, "s3cret"), &identity("router-1", "s3cret")).await;
        assert!(matches!(dialled, Err(LinkError::Refused { .. })), "{dialled:?}");
        assert!(matches!(accepted, Err(LinkError::Refused { .. })), "{accepted:?}");
    }
    let longest = identity(&"n".repeat(NODE_BYTES_MAX), "s3cret");
    let (dialled, accepted) = meet(&longest, &identity("router-1", "s3cret")).await;
    assert_eq!((dialled.unwrap().peer.as_str(), accepted.unwrap().peer.len()), ("router-1", NODE_BYTES_MAX));
}

#[tokio::test]
async fn whatever_is_no_hello_is_turned_away() {
    let too_long = Envelope::from(Kind::Hello(Hello { secret: "x".repeat(5000), ..hello() })).encode_length_prefixed();
    let early = Envelope::from(Kind::Up(Up::default())).encode_length_prefixed();
    for (bytes, what) in [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "TooLarge"),
        (vec![0x16, 0x03, 0x01, 0x02, 0x00], "TooLarge"),
        (too_long, "TooLarge"),
        (early, "OutOfTurn"),
        (vec![0, 0, 0, 0], "OutOfTurn"),
        (vec![0, 0, 0, 3, 0xff, 0xff, 0xff], "Garbage"),
        (vec![0, 0, 1, 0, 1, 2, 3], "Broken"),
        (vec![], "Broken"),
    ] {
        let (mut stranger, accepting) = connect().await;
        stranger.write_all(&bytes).await.unwrap();
        stranger.shutdown().await.unwrap();
        let refused = accepting.await.unwrap().expect_err("no hello, no link");
        assert!(format!("{refused:?}").starts_with(what), "{bytes:?}: {refused:?}");
    }
}

#[tokio::test]
async fn a_dialler_that_says_nothing_is_given_up() {
    let (_stranger, accepting) = connect_with(Timing { hello: Duration::from_millis(20), ..Timing::default() }).await;
    let refused = accepting.await.unwrap();
    assert!(matches!(refused, Err(LinkError::HelloTimeout { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_router_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let timing = Timing { hello: Duration::from_millis(20), ..Timing::default() };
    let refused = in_time(dial(&address, &identity("gateway-1", "s3cret"), timing)).await;
    assert!(matches!(refused, Err(LinkError::HelloTimeout { .. })), "{refused:?}");
}

#[tokio::test]
async fn nobody_listening_is_told_as_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let refused = in_time(dial(&address, &identity("gateway-1", "s3cret"), Timing::default())).await;
    assert!(matches!(&refused, Err(LinkError::Unreachable { peer, .. }) if *peer == address), "{refused:?}");
}

#[tokio::test]
async fn one_silent_dialler_holds_up_no_other() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut acceptor = Acceptor::new(listener, identity("router-1", "s3cret"), Timing::default());
    let _silent = TcpStream::connect(&address).await.unwrap();
    let ours = identity("gateway-1", "s3cret");
    let (dialled, accepted) = in_time(async { tokio::join!(dial(&address, &ours, Timing::default()), acceptor.accept()) }).await;
    assert_eq!((dialled.unwrap().peer.as_str(), accepted.unwrap().peer.as_str()), ("router-1", "gateway-1"));
}

#[tokio::test]
async fn envelopes_that_come_with_the_hello_are_not_lost() {
    let (mut stranger, accepting) = connect().await;
    let mut bytes = Envelope::from(Kind::Hello(hello())).encode_length_prefixed();
    bytes.extend(Envelope::from(Kind::Up(Up { id: 5, ..Up::default() })).encode_length_prefixed());
    stranger.write_all(&bytes).await.unwrap();
    let mut link = accepting.await.unwrap().unwrap();
    assert!(matches!(in_time(link.receiver.recv()).await, Some(Kind::Up(up)) if up.id == 5));
}

#[tokio::test]
async fn a_bad_peer_ends_the_link_with_the_reason() {
    let second_hello = Envelope::from(Kind::Hello(hello())).encode_length_prefixed();
    let mad_credit = Envelope::from(Kind::Credit(Credit { envelopes: u32::MAX })).encode_length_prefixed();
    let more_credit: Vec<u8> =
        std::iter::repeat_n(Envelope::from(Kind::Credit(Credit { envelopes: 16_000 })).encode_length_prefixed(), 3).flatten().collect();
    let announced = u32::try_from(ENVELOPE_BYTES_MAX + 1).unwrap().to_be_bytes().to_vec();
    for (bytes, what) in [
        (vec![0, 0, 0, 3, 0xff, 0xff, 0xff], "Garbage"),
        (announced, "TooLarge"),
        (vec![0, 0, 0, 100, 1, 2, 3], "Broken"),
        (second_hello, "OutOfTurn"),
        (mad_credit, "Overrun"),
        (more_credit, "Overrun"),
    ] {
        let (mut peer, mut link) = joined(Timing::default()).await;
        peer.write_all(&bytes).await.unwrap();
        peer.shutdown().await.unwrap();
        assert_eq!(in_time(link.receiver.recv()).await, None, "{what}");
        let ended = in_time(link.pump.ended()).await.expect_err(what);
        assert!(format!("{ended:?}").starts_with(what), "{ended:?}");
    }
}

#[tokio::test]
async fn the_largest_envelope_passes_and_one_too_large_is_left_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut acceptor = Acceptor::new(listener, identity("router-1", "s3cret"), Timing::default());
    let ours = identity("gateway-1", "s3cret");
    let (gateway, router) = tokio::join!(dial(&address, &ours, Timing::default()), acceptor.accept());
    let (gateway, mut router) = (gateway.unwrap(), router.unwrap());
    let kick = |bytes| Kind::Kick(billfish_link::message::Kick { msg: "x".repeat(bytes), ..Default::default() });
    let largest = (0..).map(|less| kick(ENVELOPE_BYTES_MAX - less)).find(|kind| size(kind) == ENVELOPE_BYTES_MAX).unwrap();
    let above = (0..).map(|less| kick(ENVELOPE_BYTES_MAX - less)).find(|kind| size(kind) == ENVELOPE_BYTES_MAX + 1).unwrap();
    for kind in [largest.clone(), above, kick(1)] {
        gateway.sender.send(kind).await.unwrap();
    }
    assert_eq!(in_time(router.receiver.recv()).await, Some(largest));
    assert_eq!(in_time(router.receiver.recv()).await, Some(kick(1)), "the link survives");
}

#[tokio::test]
async fn who_sends_beyond_its_credit_is_cut() {
    let (mut peer, link) = joined(Timing { credit: 4, ..Timing::default() }).await;
    for id in 0..5 {
        send(&mut peer, Kind::Up(Up { id, ..Up::default() })).await;
    }
    let Link { mut receiver, pump, sender, .. } = link;
    let ended = in_time(pump.ended()).await;
    assert!(matches!(ended, Err(LinkError::Overrun { .. })), "{ended:?}");
    for id in 0..4 {
        assert!(matches!(receiver.recv().await, Some(Kind::Up(up)) if up.id == id), "what came within the credit stays readable");
    }
    assert_eq!(receiver.recv().await, None);
    assert!(sender.is_closed());
}

#[tokio::test]
async fn credit_comes_back_as_envelopes_are_consumed() {
    let (mut peer, mut link) = joined(Timing { credit: 4, ..Timing::default() }).await;
    for id in 0..4 {
        send(&mut peer, Kind::Up(Up { id, ..Up::default() })).await;
    }
    let mut back = 0;
    for id in 0..4 {
        assert!(matches!(in_time(link.receiver.recv()).await, Some(Kind::Up(up)) if up.id == id));
    }
    while back < 4 {
        match receive(&mut peer).await {
            Some(Kind::Credit(credit)) => back += credit.envelopes,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(back, 4, "never more than was consumed");
}

#[tokio::test]
async fn nothing_is_sent_without_credit() {
    let (mut peer, link) = joined_granting(2, Timing::default()).await;
    for id in 0..5 {
        link.sender.send(Kind::Up(Up { id, ..Up::default() })).await.unwrap();
    }
    // A ping is answered behind whatever was written before it, so the answer shows what was not.
    for (ids, granted) in [(0..2, 1), (2..3, 2), (3..5, 1)] {
        for expected in ids {
            assert!(matches!(receive(&mut peer).await, Some(Kind::Up(up)) if up.id == expected));
        }
        send(&mut peer, Kind::Ping(Ping { nonce: 9, reply: false })).await;
        assert_eq!(receive(&mut peer).await, Some(Kind::Ping(Ping { nonce: 9, reply: true })));
        send(&mut peer, Kind::Credit(Credit { envelopes: granted })).await;
    }
}

#[tokio::test]
async fn an_envelope_of_a_kind_not_known_here_is_passed_over() {
    let (mut peer, mut link) = joined(Timing { credit: 2, ..Timing::default() }).await;
    // Field 100, empty message; more of them than the credit, each of which must come back.
    for _ in 0..10 {
        peer.write_all(&[0, 0, 0, 3, 0xa2, 0x06, 0x00]).await.unwrap();
        assert!(matches!(receive(&mut peer).await, Some(Kind::Credit(credit)) if credit.envelopes == 1));
    }
    send(&mut peer, Kind::Up(Up { id: 3, ..Up::default() })).await;
    assert!(matches!(in_time(link.receiver.recv()).await, Some(Kind::Up(up)) if up.id == 3));
}

#[tokio::test]
async fn a_link_that_is_being_closed_without_credit_gives_up_in_the_end() {
    let (mut peer, link) = joined_granting(1, Timing { flush: Duration::from_millis(20), ..Timing::default() }).await;
    for id in 0..3 {
        link.sender.send(Kind::Up(Up { id, ..Up::default() })).await.unwrap();
    }
    in_time(link.close()).await.unwrap();
    assert!(matches!(receive(&mut peer).await, Some(Kind::Up(up)) if up.id == 0));
    assert_eq!(receive(&mut peer).await, None);
}

// Helpers.

fn identity(node: &str, secret: &str) -> Identity {
    Identity {
        node: node.to_owned(),
        kind: billfish_link::PeerKind::Gateway,
        incarnation: 3,
        secret: secret.to_owned(),
        in_flight: Default::default(),
    }
}

fn hello() -> Hello {
    Hello {
        version: VERSION,
        secret: "s3cret".to_owned(),
        node: "gateway-1".to_owned(),
        incarnation: 3,
        credit: 0,
        kind: 0,
        version_min: 0,
    }
}

trait LengthPrefixed {
    fn encode_length_prefixed(&self) -> Vec<u8>;
}
impl LengthPrefixed for Envelope {
    fn encode_length_prefixed(&self) -> Vec<u8> {
        let mut bytes = u32::try_from(self.encoded_len()).unwrap().to_be_bytes().to_vec();
        self.encode(&mut bytes).unwrap();
        bytes
    }
}

fn size(kind: &Kind) -> usize {
    Envelope::from(kind.clone()).encoded_len()
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.expect("hung")
}

async fn send(stream: &mut TcpStream, kind: Kind) {
    stream.write_all(&Envelope::from(kind).encode_length_prefixed()).await.unwrap();
}

/// The next envelope by hand; `None` at the end.
async fn receive(stream: &mut TcpStream) -> Option<Kind> {
    in_time(async {
        let bytes = stream.read_u32().await.ok()?;
        let mut body = vec![0; bytes as usize];
        stream.read_exact(&mut body).await.ok()?;
        Envelope::decode(&body[..]).unwrap().kind
    })
    .await
}

async fn meet(gateway: &Identity, router: &Identity) -> (Result<Link, LinkError>, Result<Link, LinkError>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut acceptor = Acceptor::new(listener, router.clone(), Timing::default());
    in_time(async { tokio::join!(dial(&address, gateway, Timing::default()), acceptor.accept()) }).await
}

type Outcome = tokio::task::JoinHandle<Result<Link, LinkError>>;

/// A bare socket to a router that answers it.
async fn connect() -> (TcpStream, Outcome) {
    connect_with(Timing::default()).await
}

async fn connect_with(timing: Timing) -> (TcpStream, Outcome) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stranger = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    (stranger, tokio::spawn(async move { in_time(accept(accepted, &identity("router-1", "s3cret"), timing)).await }))
}

/// A bare socket that a gateway has dialled.
async fn listen() -> (TcpStream, Outcome) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let dialling = tokio::spawn(async move { in_time(dial(&address, &identity("gateway-1", "s3cret"), Timing::default())).await });
    (listener.accept().await.unwrap().0, dialling)
}

/// A bare socket with the hello done, and the router's end.
async fn joined(timing: Timing) -> (TcpStream, Link) {
    joined_granting(0, timing).await
}

async fn joined_granting(credit: u32, timing: Timing) -> (TcpStream, Link) {
    let (mut peer, accepting) = connect_with(timing).await;
    send(&mut peer, Kind::Hello(Hello { credit, ..hello() })).await;
    assert!(matches!(receive(&mut peer).await, Some(Kind::Welcome(welcome)) if welcome.refused.is_empty()));
    (peer, accepting.await.unwrap().unwrap())
}
