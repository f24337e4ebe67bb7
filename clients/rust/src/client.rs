//! The app's two ends of a session: [`Client`] to speak, [`Events`] to listen.

use crate::{
    config::ClientConfig,
    driver::{Command, Driver},
    error::{ClientError, ConfigError},
    event::Event,
    gift::Gift,
};
use billfish_session::client::Message;
use billfish_wire::BizCode;
use std::{
    fmt::{self, Display, Formatter},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// Calls on their way to the driver; it takes them at once, so more than a few mean that it is starved.
const CALLS_MAX: usize = 64;

/// Speaks for one user. Cheap to clone; calls may come from any task.
///
/// A call is answered as soon as it is taken: what becomes of it is told by [`Events`].
#[derive(Clone, Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    ids: Arc<Ids>,
}

/// The id a message was sent with; [`Event::Accepted`] and [`Event::Refused`] name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub String);

impl Display for MessageId {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

/// Message ids: the server takes the id of a message once per user within five minutes, and that of a gift once for ever, so they must not
/// repeat after a restart.
#[derive(Debug)]
struct Ids {
    run: u64,
    next: AtomicU64,
}

impl Ids {
    fn next(&self) -> String {
        format!("c{:016x}-{}", self.run, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

impl Client {
    /// Starts a session and keeps it until [`Client::close`] or an [`Event::Closed`]. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the configuration cannot work. That nothing can be reached is an [`Event::Disconnected`], as at any later time.
    pub fn connect(config: ClientConfig) -> Result<(Self, Events), ConfigError> {
        config.validate()?;
        let (commands, calls) = mpsc::channel(CALLS_MAX);
        let (sender, receiver) = mpsc::channel(config.events_max);
        let driver = tokio::spawn(Driver::new(config, calls, sender)?.run());
        let ids = Ids { run: fastrand::u64(..), next: AtomicU64::new(1) };
        Ok((Self { commands, ids: Arc::new(ids) }, Events { receiver, driver: Some(driver) }))
    }

    /// Enters a room and stays in it over reconnects. [`Event::Joined`] or [`Event::Refused`] follows.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn join(&self, room_id: i64) -> Result<(), ClientError> {
        self.call(|answer| Command::Join { room_id, answer }).await
    }

    /// Leaves a room. [`Event::Left`] follows.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn leave(&self, room_id: i64) -> Result<(), ClientError> {
        self.call(|answer| Command::Leave { room_id, answer }).await
    }

    /// Says something in a room. Other members hear it; the speaker hears [`Event::Accepted`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn chat(&self, room_id: i64, content: &str) -> Result<MessageId, ClientError> {
        let data = serde_json::json!({ "roomId": room_id, "content": content });
        self.send_biz(Some(room_id), BizCode::ROOM_CHAT, data.to_string()).await
    }

    /// Says something to one user; one who is offline finds it in the inbox.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn chat_to(&self, user_id: i64, content: &str) -> Result<MessageId, ClientError> {
        let data = serde_json::json!({ "objectId": user_id, "content": content });
        self.send_biz(None, BizCode::ROOM_CHAT, data.to_string()).await
    }

    /// Sends any business message; for gifts there is [`Client::send_gift`]. It is kept, and sent again after a reconnect, until the server
    /// has accepted or refused it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send_biz(&self, room_id: Option<i64>, biz_code: BizCode, data: String) -> Result<MessageId, ClientError> {
        let id = self.ids.next();
        let message = Message { room_id, biz_code: biz_code.0, data, msg_id: Some(id.clone()) };
        self.call(|answer| Command::Biz { message, answer }).await?;
        Ok(MessageId(id))
    }

    /// Gives something in a room that was joined. [`Event::Accepted`] with the id that comes back means that it is paid, for good; whoever
    /// is in the room, the giver too, hears [`Event::Gift`].
    ///
    /// The gift is kept, and sent again after a reconnect, until it is paid or refused. Where the server asks to come again
    /// ([`Reason::Unavailable`], [`Reason::RateLimited`]) it is given again by itself, after the time that the server names, for 30
    /// seconds; then, and at once for every other reason, [`Event::Refused`] follows. All of it under one id, and **the same id is never
    /// paid twice**. At most 16 are on their way.
    ///
    /// [`Reason::Unavailable`]: crate::Reason::Unavailable
    /// [`Reason::RateLimited`]: crate::Reason::RateLimited
    ///
    /// # Errors
    /// See [`ClientError`]. A gift that cannot be written is refused here, by the name of its field.
    pub async fn send_gift(&self, room_id: i64, gift: Gift) -> Result<MessageId, ClientError> {
        self.send_gift_as(&MessageId(self.ids.next()), room_id, gift).await
    }

    /// Gives a gift under an id that the app chose, of 1 to 64 bytes: one from before, to ask again what became of it, in this process or
    /// after a restart; or one of its own, written down before it is given, so that a crash is no second payment. It must be the same gift:
    /// the server remembers it for ever, answers as if it were paid now where it was paid before, and refuses another gift under the same
    /// id ([`Reason::UuidReused`](crate::Reason::UuidReused)). All else is as with [`Client::send_gift`].
    ///
    /// # Errors
    /// See [`ClientError`]; [`CallError::IdInUse`](crate::CallError::IdInUse) while it is on its way.
    pub async fn send_gift_as(&self, uuid: &MessageId, room_id: i64, gift: Gift) -> Result<MessageId, ClientError> {
        let message = gift.message(room_id, uuid.0.clone())?;
        self.call(|answer| Command::Gift { message, answer }).await?;
        Ok(uuid.clone())
    }

    /// Asks for a room's log after `from_seq`. [`Event::History`] follows, page by page.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn sync(&self, room_id: i64, from_seq: i64) -> Result<(), ClientError> {
        self.call(|answer| Command::SyncRoom { room_id, from_seq, answer }).await
    }

    /// Reads the inbox on from where it was read to; every login does so by itself. [`Event::InboxRead`] follows the messages.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn sync_inbox(&self) -> Result<(), ClientError> {
        self.call(|answer| Command::SyncInbox { answer }).await
    }

    /// The device has another network or another address. A QUIC connection goes on from there, in the same session; where nothing is heard
    /// of it within two seconds, and over every other transport at once, the session moves to a new connection, and keeps the old one until
    /// it is logged in there. What is known of the old network is forgotten.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn network_changed(&self) -> Result<(), ClientError> {
        self.call(|answer| Command::NetworkChanged { answer }).await
    }

    /// Logs out and ends the session; comes back when the server has said goodbye, or did not within its time. What was sent and not yet
    /// accepted is given up: wait for [`Event::Accepted`] first.
    pub async fn close(&self) {
        // Over already is as good.
        self.call(|answer| Command::Close { answer }).await.ok();
    }

    async fn call(&self, command: impl FnOnce(oneshot::Sender<Result<(), ClientError>>) -> Command) -> Result<(), ClientError> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.map_err(|_| ClientError::Closed)?;
        answered.await.map_err(|_| ClientError::Closed)?
    }
}

/// What happens, in order.
///
/// An app that does not listen holds up its own session and no one else's: see [`ClientConfig::events_max`].
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::Receiver<Event>,
    /// Waited for at the end, so that nothing of the session outlives the last event.
    driver: Option<JoinHandle<()>>,
}

impl Events {
    /// The next event; `None` once the session is over and its last event was taken. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.receiver.recv().await {
            return Some(event);
        }
        if let Some(driver) = &mut self.driver {
            // A driver that panicked has ended too.
            driver.await.ok();
            self.driver = None;
        }
        None
    }
}
