//! One suite for both kinds of link: whoever holds a [`Link`] cannot tell a pipe from TCP.
#![expect(clippy::unwrap_used, reason = "a test that fails here says so")]

use billfish_link::message::{Kick, Up, envelope::Kind};
use billfish_link::tcp::{Acceptor, Identity, SEND_QUEUE_ENVELOPES, Timing, dial};
use billfish_link::{CREDIT_ENVELOPES, Link, pipe};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::timeout;

/// Nothing here takes long; what takes this long has hung.
const DEADLINE: Duration = Duration::from_secs(30);

/// How an end is made, and how many envelopes one direction holds when nobody consumes.
struct Made {
    gateway: Link,
    router: Link,
    holds: usize,
}

async fn over_a_pipe() -> Made {
    let (gateway, router) = pipe::pair(("gateway-1", 6), ("router-1", 7));
    Made { gateway, router, holds: CREDIT_ENVELOPES }
}

async fn over_tcp() -> Made {
    let identity = |node: &str, incarnation| Identity {
        node: node.to_owned(),
        kind: billfish_link::PeerKind::Gateway,
        incarnation,
        secret: "s3cret".to_owned(),
        in_flight: Default::default(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut acceptor = Acceptor::new(listener, identity("router-1", 7), Timing::default());
    let ours = identity("gateway-1", 6);
    let (gateway, router) = tokio::join!(dial(&address, &ours, Timing::default()), acceptor.accept());
    Made { gateway: gateway.unwrap(), router: router.unwrap(), holds: CREDIT_ENVELOPES + SEND_QUEUE_ENVELOPES }
}

macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod pipe_link { $(#[tokio::test] async fn $name() { super::in_time(super::$name(super::over_a_pipe().await)).await }) + }
        mod tcp_link { $(#[tokio::test] async fn $name() { super::in_time(super::$name(super::over_tcp().await)).await }) + }
    };
}

on_both!(
    each_end_knows_the_other,
    order_is_kept_both_ways_at_once,
    a_stalled_consumer_stops_the_sender_and_loses_nothing,
    a_stalled_direction_does_not_stop_the_other,
    what_was_sent_before_the_close_arrives,
    dropping_one_end_ends_the_other,
    a_sender_learns_that_its_peer_has_gone,
    closing_waits_for_what_was_sent,
);

async fn each_end_knows_the_other(made: Made) {
    assert_eq!((made.gateway.peer.as_str(), made.gateway.incarnation), ("router-1", 7));
    assert_eq!((made.router.peer.as_str(), made.router.incarnation), ("gateway-1", 6));
}

async fn order_is_kept_both_ways_at_once(made: Made) {
    // More than the credit, so that it has to come back on the way.
    const COUNT: u64 = 3 * CREDIT_ENVELOPES as u64;
    async fn send(link: &Link) {
        for id in 0..COUNT {
            link.sender.send(up(id)).await.unwrap();
        }
    }
    async fn take(receiver: &mut tokio::sync::mpsc::Receiver<Kind>) {
        for id in 0..COUNT {
            assert_eq!(receiver.recv().await, Some(up(id)));
        }
    }
    let Made { mut gateway, mut router, .. } = made;
    let mut from_router = std::mem::replace(&mut gateway.receiver, tokio::sync::mpsc::channel(1).1);
    let mut from_gateway = std::mem::replace(&mut router.receiver, tokio::sync::mpsc::channel(1).1);
    tokio::join!(send(&gateway), send(&router), take(&mut from_router), take(&mut from_gateway));
}

async fn a_stalled_consumer_stops_the_sender_and_loses_nothing(made: Made) {
    let Made { gateway, mut router, holds } = made;
    for id in 0..holds as u64 {
        gateway.sender.send(up(id)).await.unwrap();
    }
    // One more waits: it must not be taken, however long nobody consumes. The queue being full is what says so.
    let mut more = Box::pin(gateway.sender.send(up(holds as u64)));
    assert!(futures_poll_once(&mut more).await.is_none(), "more is in flight than the credit allows");
    for id in 0..holds as u64 {
        assert_eq!(router.receiver.recv().await, Some(up(id)));
    }
    more.await.unwrap();
    assert_eq!(router.receiver.recv().await, Some(up(holds as u64)));
}

async fn a_stalled_direction_does_not_stop_the_other(made: Made) {
    let Made { mut gateway, router, holds } = made;
    for id in 0..holds as u64 {
        gateway.sender.send(up(id)).await.unwrap();
    }
    for id in 0..1000 {
        router.sender.send(kick(id)).await.unwrap();
        assert_eq!(gateway.receiver.recv().await, Some(kick(id)));
    }
}

async fn what_was_sent_before_the_close_arrives(made: Made) {
    let Made { gateway, mut router, .. } = made;
    // The router has sent something that nobody reads: closing over it must not cost what the gateway sent.
    router.sender.send(kick(1)).await.unwrap();
    for id in 0..5000 {
        gateway.sender.send(up(id)).await.unwrap();
    }
    drop(gateway);
    for id in 0..5000 {
        assert_eq!(router.receiver.recv().await, Some(up(id)));
    }
    assert_eq!(router.receiver.recv().await, None);
}

async fn dropping_one_end_ends_the_other(made: Made) {
    let Made { mut gateway, router, .. } = made;
    drop(router);
    assert_eq!(gateway.receiver.recv().await, None);
}

async fn a_sender_learns_that_its_peer_has_gone(made: Made) {
    let Made { gateway, router, .. } = made;
    drop(router);
    gateway.sender.closed().await;
    gateway.sender.send(up(1)).await.unwrap_err();
}

async fn closing_waits_for_what_was_sent(made: Made) {
    let Made { gateway, mut router, .. } = made;
    for id in 0..5000 {
        gateway.sender.send(up(id)).await.unwrap();
    }
    let (closed, ()) = tokio::join!(gateway.close(), async move {
        for id in 0..5000 {
            assert_eq!(router.receiver.recv().await, Some(up(id)));
        }
        assert_eq!(router.receiver.recv().await, None);
    });
    closed.unwrap();
}

fn up(id: u64) -> Kind {
    Kind::Up(Up { id, ..Up::default() })
}

fn kick(user_id: i64) -> Kind {
    Kind::Kick(Kick { user_id, msg: "bye".to_owned(), ..Kick::default() })
}

async fn in_time(test: impl Future<Output = ()>) {
    timeout(DEADLINE, test).await.expect("hung");
}

async fn futures_poll_once<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
