//! Stream keys.

use super::Home;
use crate::{ledger::StreamRecord, services::ports::RoomKind};
use billfish_state::{AppId, UserId};

fn stream(key: &str) -> StreamRecord {
    StreamRecord {
        app: AppId(10_001),
        anchor: UserId(30_001),
        key: key.to_owned(),
        kind: RoomKind::Pk,
        name: "Ann sings".to_owned(),
        cover: String::new(),
        publisher: String::new(),
    }
}

pub(super) async fn a_stream_key_is_replaced_and_never_printed(home: Home) {
    let ledger = home.open().await;
    let (app, anchor) = (AppId(10_001), UserId(30_001));
    assert_eq!(ledger.stream(app, anchor).await.unwrap(), None);
    ledger.put_stream(&stream("first-key")).await.unwrap();
    ledger.put_stream(&stream("second-key")).await.unwrap();
    let found = ledger.stream(app, anchor).await.unwrap().unwrap();
    assert_eq!(found, stream("second-key"));
    assert!(!format!("{found:?}").contains("second-key"));
    assert_eq!(ledger.stream(AppId(10_002), anchor).await.unwrap(), None);
}

pub(super) async fn only_the_connection_that_publishes_can_end_it(home: Home) {
    let (one, other) = (home.open().await, home.open().await);
    let (app, anchor) = (AppId(10_001), UserId(30_001));
    one.put_stream(&stream("key")).await.unwrap();
    one.set_publisher(app, anchor, "10.0.0.1 1").await.unwrap();
    other.set_publisher(app, anchor, "10.0.0.1 2").await.unwrap();
    // Said twice: a server that counts changed rows and not found ones would say none.
    other.set_publisher(app, anchor, "10.0.0.1 2").await.unwrap();
    assert!(!one.end_publisher(app, anchor, "10.0.0.1 1").await.unwrap());
    assert!(one.end_publisher(app, anchor, "10.0.0.1 2").await.unwrap());
    assert!(!other.end_publisher(app, anchor, "10.0.0.1 2").await.unwrap());
}
