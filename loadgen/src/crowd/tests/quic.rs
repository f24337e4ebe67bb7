//! The same over QUIC, against a gateway that decides what comes on which stream and when.

use super::{ROOM, connect, plan, tokens, turn_until};
use crate::{
    crowd::{Crowd, quic::ECHO_WAIT_NS, room::Load},
    transport::Transport,
    worker::{Activity, Plan},
};
use billfish_testing::Certificates;
use billfish_wire::{Body, Class, Code, Encoding, Reassembler, frame, limits::BODY_BYTES_MAX};
use quinn::{
    Connection, Endpoint, SendStream, ServerConfig, VarInt,
    crypto::rustls::QuicServerConfig,
    rustls::{
        self,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::SocketAddr,
    sync::{Arc, mpsc},
    thread,
};

const CLIENTS: usize = 3;

/// A push: the stream that it goes on, the class that it names, its number and its place in the room.
#[derive(Clone, Copy)]
struct Push {
    on: Class,
    names: Class,
    number: u32,
    seq: i64,
}

const fn push(class: Class, number: u32, seq: i64) -> Push {
    Push { on: class, names: class, number, seq }
}

/// Answers LOGIN, and JOIN when all pushes have been acknowledged. Each push is sent when the one before it was.
#[derive(Clone, Default)]
struct Gateway {
    pushes: Vec<Push>,
    /// Behind JOIN: a push where answers belong.
    confuses_streams: bool,
    /// Behind JOIN: the connection is closed with this word.
    closes: Option<&'static str>,
    answers_heartbeats: bool,
}

impl Gateway {
    /// Listens until the test process ends.
    fn serve(self) -> SocketAddr {
        let certificates = Certificates::new();
        let chain = CertificateDer::pem_file_iter(certificates.certificate()).expect("PEM").collect::<Result<_, _>>().expect("PEM");
        let key = PrivateKeyDer::from_pem_file(certificates.key()).expect("PEM");
        let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has suites for it")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("the key is the certificate's");
        tls.alpn_protocols = vec![b"billfish/1".to_vec()];
        let crypto = QuicServerConfig::try_from(tls).expect("the provider has AES-128");
        let (tell, address) = mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listens = SocketAddr::from(([127, 0, 0, 1], 0));
                let endpoint = Endpoint::server(ServerConfig::with_crypto(Arc::new(crypto)), listens).expect("a free port");
                tell.send(endpoint.local_addr().expect("bound")).expect("the test waits");
                while let Some(incoming) = endpoint.accept().await {
                    let gateway = self.clone();
                    tokio::spawn(async move {
                        if let Ok(connection) = incoming.await {
                            gateway.talk(&connection).await;
                        }
                    });
                }
            });
        });
        address.recv().expect("it listens")
    }

    /// Until the client is gone.
    async fn talk(self, connection: &Connection) -> Option<()> {
        let (mut answers, mut up) = connection.accept_bi().await.ok()?;
        let mut streams = BTreeMap::new();
        let mut left = self.pushes.iter();
        let mut reassembler = Reassembler::default();
        let mut buffer = [0; 4096];
        while let Ok(Some(read)) = up.read(&mut buffer).await {
            let mut codes = Vec::new();
            let mut frames = reassembler.feed(&buffer[..read]);
            while let Some(frame) = frames.next(BODY_BYTES_MAX).expect("the crowd sends frames") {
                codes.push(Code::from_number(frame.code).expect("a known code"));
            }
            for code in codes {
                match (code, left.as_slice()) {
                    (Code::Login, _) => say(&mut answers, Code::Login, &Body { heartbeat_secs: Some(30), ..Body::yes() }).await?,
                    (Code::Join | Code::Ack, [next, ..]) => {
                        left.next();
                        self.push(connection, &mut streams, next).await?;
                    }
                    (Code::Join | Code::Ack, []) => {
                        say(&mut answers, Code::Join, &Body { room_id: Some(ROOM), seq: Some(0), ..Body::default() }).await?;
                        if self.confuses_streams {
                            say(&mut answers, Code::Biz, &body(push(Class::Chat, 0, 1))).await?;
                        }
                        if let Some(word) = self.closes {
                            // Told first that the client is in: what is closed before it has read that was never a member.
                            answers.finish().ok()?;
                            answers.stopped().await.ok()?;
                            connection.close(VarInt::from_u32(0), word.as_bytes());
                        }
                    }
                    (Code::Heartbeat, _) if self.answers_heartbeats => say(&mut answers, Code::Heartbeat, &Body::yes()).await?,
                    _ => {}
                }
            }
        }
        Some(())
    }

    async fn push(&self, connection: &Connection, streams: &mut BTreeMap<i32, SendStream>, next: &Push) -> Option<()> {
        let stream = match streams.entry(next.on.number()) {
            Entry::Occupied(opened) => opened.into_mut(),
            Entry::Vacant(place) => {
                let mut opened = connection.open_uni().await.ok()?;
                opened.write_all(&[next.on as u8]).await.ok()?;
                place.insert(opened)
            }
        };
        say(stream, Code::Biz, &body(*next)).await
    }
}

fn body(Push { names, number, seq, .. }: Push) -> Body {
    let data = Load { number, intended_ns: 1 }.data(60);
    Body {
        room_id: Some(ROOM),
        seq: Some(seq),
        class: Some(names.number()),
        qos: Some(1),
        msg_id: Some(format!("r{ROOM}-{seq}")),
        data: Some(data),
        ..Body::default()
    }
}

async fn say(stream: &mut SendStream, code: Code, body: &Body) -> Option<()> {
    stream.write_all(&frame::encode(Encoding::Json, code, body)).await.ok()
}

fn of(gateway: Gateway) -> Plan {
    Plan { transport: Transport::Quic, ..plan(gateway.serve(), CLIENTS, Activity::Listen) }
}

fn crowd(plan: &Plan) -> Crowd<'_> {
    let mut crowd = Crowd::new(plan, tokens(CLIENTS)).expect("epoll");
    connect(&mut crowd);
    assert_eq!(crowd.settled().settled, CLIENTS, "{:?}", crowd.settled().failures);
    crowd
}

#[test]
fn pushes_before_the_joins_answer_count_once_and_in_the_order_of_their_class() {
    // A gift overtakes the chat that was said before it, which over one stream would be out of order.
    let pushes = vec![push(Class::Chat, 0, 10), push(Class::Event, 3, 40), push(Class::Chat, 1, 20), push(Class::Chat, 2, 30)];
    let plan = of(Gateway { pushes, ..Gateway::default() });
    let mut crowd = crowd(&plan);
    crowd.begin_activity();
    crowd.end_activity(&[4]);
    assert!(!crowd.awaits_more());
    let report = crowd.report();
    assert_eq!((report.totals.received, report.totals.duplicates), (4 * CLIENTS as u64, 0));
    assert_eq!((report.totals.order_breaks, report.totals.strays), (0, 0));
}

#[test]
fn what_is_swapped_within_a_class_is_out_of_order() {
    let pushes = vec![push(Class::Event, 3, 40), push(Class::Chat, 1, 20), push(Class::Chat, 0, 10), push(Class::Chat, 2, 30)];
    let plan = of(Gateway { pushes, ..Gateway::default() });
    let totals = crowd(&plan).report().totals;
    assert_eq!((totals.received, totals.order_breaks, totals.strays), (4 * CLIENTS as u64, CLIENTS as u64, 0));
}

#[test]
fn a_push_on_the_stream_of_another_class_is_a_stray() {
    let pushes = vec![Push { names: Class::Event, ..push(Class::Chat, 0, 10) }];
    let plan = of(Gateway { pushes, ..Gateway::default() });
    let totals = crowd(&plan).report().totals;
    assert_eq!((totals.received, totals.strays), (0, CLIENTS as u64));
}

#[test]
fn a_push_among_the_answers_ends_the_connection() {
    let plan = of(Gateway { confuses_streams: true, ..Gateway::default() });
    let mut crowd = Crowd::new(&plan, tokens(CLIENTS)).expect("epoll");
    connect(&mut crowd);
    turn_until(&mut crowd, |crowd| crowd.settled_now() == 0);
    assert_eq!(crowd.report().lost.get("code 1003 on the wrong stream"), Some(&(CLIENTS as u64)));
}

#[test]
fn a_connection_that_the_gateway_closes_is_lost_with_its_word() {
    let plan = of(Gateway { closes: Some("drained"), ..Gateway::default() });
    let mut crowd = Crowd::new(&plan, tokens(CLIENTS)).expect("epoll");
    connect(&mut crowd);
    turn_until(&mut crowd, |crowd| crowd.settled_now() == 0);
    assert_eq!(crowd.report().lost.get("closed: drained"), Some(&(CLIENTS as u64)));
}

#[test]
fn who_hears_no_echo_is_lost() {
    for answers_heartbeats in [true, false] {
        let plan = of(Gateway { answers_heartbeats, ..Gateway::default() });
        let mut crowd = crowd(&plan);
        for index in 0..CLIENTS {
            crowd.connections[index].client.keep_alive(&mut crowd.shared);
            crowd.await_beat(index);
            crowd.flush(index);
        }
        if answers_heartbeats {
            turn_until(&mut crowd, |crowd| crowd.shared.stats.beats_echoed == CLIENTS as u64);
        }
        crowd.shared.now_ns += ECHO_WAIT_NS - 1_000_000_000;
        crowd.give_up_silent();
        assert_eq!(crowd.settled_now(), CLIENTS, "it is not too late");
        crowd.shared.now_ns += 1_000_000_000;
        crowd.give_up_silent();
        assert_eq!(crowd.settled_now(), if answers_heartbeats { CLIENTS } else { 0 });
        // An account of nobody who was lost before its time.
        let lost = crowd.report().lost;
        assert_eq!(lost.get("a heartbeat was not answered").copied().unwrap_or(0) == 0, answers_heartbeats, "{lost:?}");
    }
}

#[test]
fn who_goes_says_so_and_leaves_nothing_behind() {
    let plan = of(Gateway { answers_heartbeats: true, ..Gateway::default() });
    let mut crowd = crowd(&plan);
    crowd.leave();
    assert_eq!(crowd.quic.as_ref().map(|quic| quic.links()), Some(0));
}
