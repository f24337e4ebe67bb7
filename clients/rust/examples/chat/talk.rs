//! The conversation: events and typed lines in, calls and sentences out.

use crate::{
    api::Api,
    command::Command,
    screen::{Input, Screen},
    words,
};
use anyhow::{Context, Result};
use billfish_client::{Client, ClientConfig, ClientError, Encoding, Event, Events, Reason, Roots, TokenError, TokenProvider};
use std::{collections::HashMap, process::ExitCode, time::Duration};
use tokio::{
    select,
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, sleep_until, timeout},
};

/// At the end of input: what was sent has this long to be acknowledged. A person who leaves waits less than a script.
const LAST_WORDS_PIPE: Duration = Duration::from_secs(30);
const LAST_WORDS_TERMINAL: Duration = Duration::from_secs(3);
/// The server's goodbye.
const GOODBYE: Duration = Duration::from_secs(2);
/// A line of a script that was refused for being too fast, without a time, is tried again after this long.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A line on its way.
#[derive(Clone, Debug)]
struct Sent {
    to: Option<i64>,
    text: String,
}

/// One user in one room.
pub(crate) struct Talk {
    api: Api,
    screen: Screen,
    client: Client,
    events: Events,
    room: i64,
    is_in: bool,
    is_connected: bool,
    audience: i64,
    on_the_way: HashMap<String, Sent>,
    /// A script's line that was too fast.
    again: Option<(Instant, Sent)>,
    /// Input is over: when to stop waiting.
    leaving: Option<Instant>,
    /// A line of a script was refused.
    has_failed: bool,
}

impl Talk {
    /// Connects and asks for the room.
    pub(crate) async fn begin(api: Api, mut screen: Screen, room: i64, roots: Roots, protobuf: bool) -> Result<Self> {
        let backend = api.clone();
        let tokens = TokenProvider::new(move || {
            let backend = backend.clone();
            // The backend's client blocks; the session must not.
            async { spawn_blocking(move || backend.ticket()).await.map_err(|error| TokenError::Away(error.to_string()))? }
        });
        let config = ClientConfig {
            platform: Some("desktop".to_owned()),
            roots,
            encoding: if protobuf { Encoding::Protobuf } else { Encoding::Json },
            ..ClientConfig::new(api.user_id, tokens)
        };
        screen.remark(&format!("you are {}, user {}", api.name, api.user_id));
        let (client, events) = Client::connect(config).context("the session cannot be started")?;
        client.join(room).await.context("the room cannot be asked for")?;
        Ok(Self {
            api,
            screen,
            client,
            events,
            room,
            is_in: false,
            is_connected: false,
            audience: 0,
            on_the_way: HashMap::new(),
            again: None,
            leaving: None,
            has_failed: false,
        })
    }

    /// Talks until the input or the session ends.
    pub(crate) async fn run(&mut self, mut input: mpsc::Receiver<Input>) -> Result<ExitCode> {
        loop {
            // A script's lines go one by one, so that they arrive in order whatever is refused in between.
            let is_ready = self.is_in && self.on_the_way.is_empty() && self.again.is_none();
            let takes_input = self.leaving.is_none() && (self.screen.is_terminal || is_ready);
            if self.leaving.is_some() && self.on_the_way.is_empty() && self.again.is_none() {
                break;
            }
            let again_at = self.again.as_ref().map(|(at, _)| *at);
            select! {
                event = self.events.next() => match event {
                    Some(Event::Closed { reason }) => return Ok(self.on_closed(reason)),
                    Some(event) => self.on_event(event),
                    None => return Ok(ExitCode::FAILURE),
                },
                line = input.recv(), if takes_input => match line {
                    // A paste may hold several lines, and a line of chat is one.
                    Some(Input::Line(text)) => for line in text.lines() { self.on_line(line).await?; },
                    Some(Input::End) | None => self.leave(),
                },
                () = at(again_at) => self.try_again().await?,
                () = at(self.leaving) => break,
            }
        }
        let unsaid = self.on_the_way.len() + usize::from(self.again.is_some());
        if unsaid > 0 {
            self.screen.trouble(&format!("{unsaid} of your lines did not reach the server"));
        }
        // A server that is away cannot say goodbye.
        timeout(GOODBYE, self.client.close()).await.ok();
        Ok(if unsaid > 0 || self.has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn leave(&mut self) {
        let patience = if self.screen.is_terminal { LAST_WORDS_TERMINAL } else { LAST_WORDS_PIPE };
        self.leaving = Some(Instant::now() + patience);
    }

    async fn on_line(&mut self, line: &str) -> Result<()> {
        // In a pipe a line is a line.
        let command = match (self.screen.is_terminal, line.trim()) {
            (true, _) => Command::read(line),
            (false, "") => Command::Empty,
            (false, text) => Command::Say(text),
        };
        match command {
            Command::Empty => {}
            Command::Say(text) => self.send(Sent { to: None, text: text.to_owned() }).await?,
            Command::Whisper { user_id, text } => self.send(Sent { to: Some(user_id), text: text.to_owned() }).await?,
            Command::Join(room) => self.change_room(room).await,
            Command::Who => self.show_members().await,
            Command::Rooms => self.show_rooms().await,
            Command::Help => self.screen.show(words::HELP),
            Command::Quit => self.leave(),
            Command::Wrong(text) => self.screen.trouble(text),
        }
        Ok(())
    }

    async fn send(&mut self, sent: Sent) -> Result<()> {
        if sent.to.is_none() && !self.is_in && self.is_connected {
            self.screen.trouble("you are in no room; /rooms lists them, /join ROOM takes you to one");
            return Ok(());
        }
        let outcome = match sent.to {
            Some(user_id) => self.client.chat_to(user_id, &sent.text).await,
            None => self.client.chat(self.room, &sent.text).await,
        };
        match outcome {
            Ok(id) => {
                self.on_the_way.insert(id.0, sent);
                if !self.is_connected {
                    self.screen.remark("kept until the server is back");
                }
            }
            // The end of the session is the next event.
            Err(ClientError::Closed) => {}
            Err(error) => self.screen.trouble(&format!("{:#}", anyhow::Error::from(error))),
        }
        Ok(())
    }

    async fn try_again(&mut self) -> Result<()> {
        match self.again.take() {
            Some((_, sent)) => self.send(sent).await,
            None => Ok(()),
        }
    }

    async fn change_room(&mut self, room: i64) {
        if room == self.room && self.is_in {
            return self.screen.remark("you are there already");
        }
        // A full session and a session that is over are told by the events.
        self.client.leave(self.room).await.ok();
        (self.room, self.is_in) = (room, false);
        if let Err(error) = self.client.join(room).await {
            self.screen.trouble(&format!("{:#}", anyhow::Error::from(error)));
        }
    }

    async fn show_members(&mut self) {
        let (api, room) = (self.api.clone(), self.room);
        match spawn_blocking(move || api.members(room)).await.map_err(anyhow::Error::from).flatten() {
            Ok(members) => self.screen.remark(&format!("in room {room}: {}", members.join(", "))),
            Err(error) => self.screen.trouble(&format!("{error:#}")),
        }
    }

    async fn show_rooms(&mut self) {
        let api = self.api.clone();
        match spawn_blocking(move || api.rooms()).await.map_err(anyhow::Error::from).flatten() {
            Ok(rooms) if rooms.is_empty() => self.screen.remark("no live room"),
            Ok(rooms) => {
                for room in rooms {
                    let here = if room.room_id == self.room { ", you are here" } else { "" };
                    self.screen.remark(&format!("room {}: {} ({}{here})", room.room_id, room.room_name, words::people(room.audience)));
                }
            }
            Err(error) => self.screen.trouble(&format!("{error:#}")),
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Connected { .. } => self.is_connected = true,
            Event::Joined { room_id, audience, gap, .. } if room_id == self.room => {
                let was_in = std::mem::replace(&mut self.is_in, true);
                self.audience = audience;
                let again = if was_in { "back in" } else { "in" };
                self.screen.remark(&format!("{again} room {room_id}, {}; /help shows what you can do", words::audience(audience)));
                if gap {
                    self.screen.remark("some lines in between are gone");
                }
            }
            Event::Left { room_id } if room_id == self.room && self.is_in => {
                self.is_in = false;
                self.screen.remark(&format!("you are out of room {room_id}"));
            }
            Event::Chat(chat) => {
                let line = self.screen.paint.chat(&chat);
                self.screen.show(&line);
            }
            Event::Audience { room_id, audience } if room_id == self.room && audience != self.audience => {
                self.audience = audience;
                self.screen.remark(&words::audience(audience));
            }
            Event::Push(body) => {
                if let Some(sentence) = words::notice(&body, self.api.user_id) {
                    self.screen.remark(&sentence);
                }
            }
            Event::Accepted { msg_id, .. } => {
                if let Some(sent) = self.on_the_way.remove(&msg_id) {
                    let line = self.screen.paint.accepted(&self.api.name, sent.to, &sent.text);
                    self.screen.show(&line);
                }
            }
            Event::Refused { msg_id, room_id, reason, msg, retry_after } => self.on_refused(msg_id, room_id, reason, &msg, retry_after),
            Event::Disconnected { cause, retry_in } => {
                self.is_connected = false;
                self.screen.trouble(&format!("not connected: {cause}; trying again in {}", words::seconds(retry_in)));
            }
            // Of rooms left behind, told elsewhere, or never asked for by this program.
            Event::Joined { .. }
            | Event::Left { .. }
            | Event::Audience { .. }
            | Event::Connecting { .. }
            | Event::History { .. }
            | Event::InboxRead { .. }
            | Event::Closed { .. } => {}
            // What a later SDK may tell.
            _ => {}
        }
    }

    fn on_refused(&mut self, msg_id: Option<String>, room_id: Option<i64>, reason: Reason, msg: &str, retry_after: Option<Duration>) {
        let sentence = words::refusal(reason, msg, retry_after);
        match msg_id.and_then(|msg_id| self.on_the_way.remove(&msg_id)) {
            Some(sent) if !self.screen.is_terminal && (retry_after.is_some() || reason == Reason::RateLimited) => {
                // A script has time, a person reads why and decides.
                self.again = Some((Instant::now() + retry_after.unwrap_or(AGAIN_AFTER), sent));
            }
            Some(sent) => {
                self.has_failed |= !self.screen.is_terminal;
                self.screen.trouble(&format!("{sentence} (\"{}\")", sent.text));
            }
            None => {
                self.screen.trouble(&sentence);
                // A script that cannot enter its room has nowhere to speak.
                if room_id == Some(self.room) && !self.is_in && !self.screen.is_terminal {
                    self.has_failed = true;
                    self.leaving = Some(Instant::now());
                }
            }
        }
    }

    fn on_closed(&mut self, reason: Reason) -> ExitCode {
        match words::goodbye(reason, &self.api.name) {
            Some(sentence) => {
                self.screen.trouble(&sentence);
                ExitCode::FAILURE
            }
            None => ExitCode::SUCCESS,
        }
    }
}

/// Waits until then; for ever when there is no then.
async fn at(then: Option<Instant>) {
    match then {
        Some(then) => sleep_until(then).await,
        None => std::future::pending().await,
    }
}
