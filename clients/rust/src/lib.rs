//! The Billfish SDK: connect, join, chat, and never see a message twice.
//!
//! - [`Client`] is the app's hand: calls go in and come back at once. [`Events`] is its ear: everything that happens, in order.
//! - Reconnecting, resuming, de-duplicating and ordering happen inside. The protocol's decisions are those of
//!   `billfish_session::client::ClientSession`; what is left here is sockets, time, tokens and addresses.
//! - A gift has one id for ever: it may be asked for again and is paid once. Gifts are shown once, and the bar of a PK never goes back.
//! - QUIC, TLS, plain TCP, and WebSocket over the last two; of several kinds of addresses the best that this network lets through.
//! - A gateway that goes down, and a device that changes its network, move the session to another connection before the old one is given up.
//!   A QUIC connection goes on from the new address by itself.
//! - An [`Event::Closed`] is the last one, and the only end there is: everything else is tried again.
//!
//! ```no_run
//! use billfish_client::{Client, ClientConfig, Event, Ticket, TokenProvider};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // Asked before every connect: tokens live five minutes.
//! let tokens = TokenProvider::new(|| async {
//!     Ok(Ticket { token: "from POST /v1/im/tokens".to_owned(), addresses: vec!["127.0.0.1:8085".to_owned()] })
//! });
//! let (client, mut events) = Client::connect(ClientConfig::new(10_086, tokens))?;
//! client.join(42).await?;
//! client.chat(42, "good evening").await?;
//! while let Some(event) = events.next().await {
//!     match event {
//!         Event::Chat(chat) => println!("{}: {}", chat.sender_name, chat.content),
//!         Event::Disconnected { cause, retry_in } => println!("{cause}; back in {retry_in:?}"),
//!         Event::Closed { reason } => println!("over: {}", reason.message()),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod client;
mod config;
mod driver;
mod endpoint;
mod error;
mod event;
mod gift;
mod reconnect;
mod transport;

pub use billfish_session::client::CallError;
pub use billfish_wire::{BizCode, Body, Class, Encoding, Reason};
pub use client::{Client, Events, MessageId};
pub use config::{ClientConfig, Roots, Ticket, TokenError, TokenProvider};
pub use endpoint::TransportKind;
pub use error::{ClientError, ConfigError};
pub use event::{Cause, Chat, Event};
pub use gift::{Gift, GiftEvent, GiftKind, PkBar};
