//! The conversation: events and typed lines in, calls and sentences out.

use crate::{
    api::{Api, Item},
    command::Command,
    gifts::{Meter, Ordered, order},
    screen::{Input, Screen},
    words,
};
use anyhow::{Context, Result};
use billfish_client::{
    Client, ClientConfig, ClientError, Encoding, Event, Events, Gift, GiftEvent, MessageId, PkBar, Reason, Roots, TokenError, TokenProvider,
};
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

/// Names that are remembered; beyond it they are asked for again.
const NAMES_MAX: usize = 4_096;

/// Something on its way.
#[derive(Clone, Debug)]
enum Sent {
    /// A line of chat.
    Line { to: Option<i64>, text: String },
    /// A gift, and how a person says it. Its id stays, so that it is paid once however often it is asked for.
    Gift { id: Option<MessageId>, room: i64, gift: Gift, what: String },
}

impl Sent {
    fn text(&self) -> &str {
        match self {
            Self::Line { text, .. } => text,
            Self::Gift { what, .. } => what,
        }
    }
}

/// To who speaks or gives where he is not.
const NO_ROOM: &str = "you are in no room; /rooms lists them, /join ROOM takes you to one";

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
    /// A script's line that was too fast, and gifts of which it is not known yet whether they are paid. Each was on its way.
    again: Vec<(Instant, Sent)>,
    names: HashMap<i64, String>,
    catalogue: Vec<Item>,
    /// The PK of the room, as the SDK tells it.
    pk: Option<PkBar>,
    meter: Meter,
    /// In a pipe, too, `/` begins a command.
    has_commands: bool,
    /// Input is over: when to stop waiting.
    leaving: Option<Instant>,
    /// A line of a script was refused.
    has_failed: bool,
}

impl Talk {
    /// Connects and asks for the room.
    pub(crate) async fn begin(api: Api, mut screen: Screen, room: i64, roots: Roots, protobuf: bool, commands: bool) -> Result<Self> {
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
        let has_commands = commands || screen.is_terminal;
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
            again: Vec::new(),
            names: HashMap::new(),
            catalogue: Vec::new(),
            pk: None,
            meter: Meter::default(),
            has_commands,
            leaving: None,
            has_failed: false,
        })
    }

    /// Talks until the input or the session ends.
    pub(crate) async fn run(&mut self, mut input: mpsc::Receiver<Input>) -> ExitCode {
        loop {
            // A script's lines go one by one, so that they arrive in order whatever is refused in between.
            let is_ready = self.is_in && self.on_the_way.is_empty() && self.again.is_empty();
            let takes_input = self.leaving.is_none() && (self.screen.is_terminal || is_ready);
            if self.leaving.is_some() && self.on_the_way.is_empty() && self.again.is_empty() {
                break;
            }
            let again_at = self.again.iter().map(|(at, _)| *at).min();
            let drawn_at = self.meter.due(Instant::now());
            select! {
                event = self.events.next() => match event {
                    Some(Event::Closed { reason }) => return self.on_closed(reason),
                    Some(event) => self.on_event(event).await,
                    None => return ExitCode::FAILURE,
                },
                line = input.recv(), if takes_input => match line {
                    // A paste may hold several lines, and a line of chat is one.
                    Some(Input::Line(text)) => {
                        self.screen.leave_bar();
                        for line in text.lines() {
                            self.on_line(line).await;
                        }
                    }
                    Some(Input::End) | None => self.leave(),
                },
                () = at(again_at) => self.try_again().await,
                () = at(drawn_at) => self.draw_bar().await,
                () = at(self.leaving) => break,
            }
        }
        self.draw_bar().await;
        let unsaid = self.on_the_way.len() + self.again.len();
        if unsaid > 0 {
            self.screen.trouble(&format!("{unsaid} of your lines did not reach the server"));
        }
        // A server that is away cannot say goodbye.
        timeout(GOODBYE, self.client.close()).await.ok();
        if unsaid > 0 || self.has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    fn leave(&mut self) {
        let patience = if self.screen.is_terminal { LAST_WORDS_TERMINAL } else { LAST_WORDS_PIPE };
        self.leaving = Some(Instant::now() + patience);
    }

    async fn on_line(&mut self, line: &str) {
        // In a pipe a line is a line, unless it is asked for otherwise.
        let command = match (self.has_commands, line.trim()) {
            (true, _) => Command::read(line),
            (false, "") => Command::Empty,
            (false, text) => Command::Say(text),
        };
        match command {
            Command::Empty => {}
            Command::Say(text) => self.send(Sent::Line { to: None, text: text.to_owned() }).await,
            Command::Whisper { user_id, text } => self.send(Sent::Line { to: Some(user_id), text: text.to_owned() }).await,
            Command::Join(room) => self.change_room(room).await,
            Command::Who => self.show_members().await,
            Command::Rooms => self.show_rooms().await,
            Command::Gift(words) => self.give(words).await,
            Command::Gifts => self.show_gifts().await,
            Command::Wallet(coins) => self.show_wallet(coins).await,
            Command::Challenge(begins) => self.challenge(begins).await,
            Command::Help => self.screen.show(words::HELP),
            Command::Quit => self.leave(),
            Command::Wrong(text) => self.fail(text),
        }
    }

    async fn send(&mut self, sent: Sent) {
        if matches!(sent, Sent::Line { to: None, .. }) && !self.is_in && self.is_connected {
            return self.screen.trouble(NO_ROOM);
        }
        let outcome = match &sent {
            Sent::Line { to: Some(user_id), text } => self.client.chat_to(*user_id, text).await,
            Sent::Line { to: None, text } => self.client.chat(self.room, text).await,
            Sent::Gift { id: None, room, gift, .. } => self.client.send_gift(*room, gift.clone()).await,
            Sent::Gift { id: Some(id), room, gift, .. } => self.client.send_gift_as(id, *room, gift.clone()).await,
        };
        match outcome {
            Ok(id) => {
                let sent = match sent {
                    Sent::Gift { room, gift, what, .. } => Sent::Gift { id: Some(id.clone()), room, gift, what },
                    line @ Sent::Line { .. } => line,
                };
                self.on_the_way.insert(id.0, sent);
                if !self.is_connected {
                    self.screen.remark("kept until the server is back");
                }
            }
            // The end of the session is the next event.
            Err(ClientError::Closed) => {}
            Err(error) => self.fail(&format!("{:#}", anyhow::Error::from(error))),
        }
    }

    /// Something that was asked for cannot be done.
    fn fail(&mut self, text: &str) {
        self.has_failed |= !self.screen.is_terminal;
        self.screen.trouble(text);
    }

    async fn try_again(&mut self) {
        let now = Instant::now();
        for sent in self.again.extract_if(.., |(at, _)| *at <= now).map(|(_, sent)| sent).collect::<Vec<_>>() {
            self.send(sent).await;
        }
    }

    async fn give(&mut self, words: &str) {
        if !self.is_in {
            return self.fail(NO_ROOM);
        }
        match self.order(words).await {
            Ok(Ordered { gift, what }) => self.send(Sent::Gift { id: None, room: self.room, gift, what }).await,
            Err(error) => self.fail(&format!("{error:#}")),
        }
    }

    async fn order(&mut self, words: &str) -> Result<Ordered> {
        let anchor = match self.pk {
            Some(bar) => bar.anchor_id,
            None => {
                let (api, room) = (self.api.clone(), self.room);
                spawn_blocking(move || api.room(room)).await??.context("the room has closed")?.anchor_id
            }
        };
        // The prices are those that were seen, as long as all that is asked for is known.
        let ordered = match order(words, &self.catalogue, anchor, self.pk.as_ref()) {
            Ok(ordered) => Ok(ordered),
            Err(_) => {
                self.load_catalogue().await?;
                order(words, &self.catalogue, anchor, self.pk.as_ref())
            }
        };
        let mut ordered = ordered.map_err(anyhow::Error::msg)?;
        ordered.what = format!("{} to {}", ordered.what, self.name_of(ordered.gift.receiver_id).await);
        Ok(ordered)
    }

    async fn load_catalogue(&mut self) -> Result<()> {
        let api = self.api.clone();
        self.catalogue = spawn_blocking(move || api.gifts()).await??;
        Ok(())
    }

    async fn show_gifts(&mut self) {
        match self.load_catalogue().await {
            Ok(()) if self.catalogue.is_empty() => {
                self.screen.remark("nothing can be given here; PUT /v1/gifts/{id} puts a gift into the catalogue")
            }
            Ok(()) => {
                for Item { gift_id, name, price } in &self.catalogue {
                    self.screen.remark(&format!("{gift_id}: {name}, {}", words::coins(*price)));
                }
            }
            Err(error) => self.fail(&format!("{error:#}")),
        }
    }

    async fn show_wallet(&mut self, coins: Option<i64>) {
        let api = self.api.clone();
        let has = match coins {
            // Each time it is typed it is another present.
            Some(coins) => {
                let uuid = format!("chat-{:016x}", fastrand::u64(..));
                spawn_blocking(move || api.grant(coins, &uuid)).await
            }
            None => spawn_blocking(move || api.coins()).await,
        };
        match has.map_err(anyhow::Error::from).flatten() {
            Ok(Some(has)) => self.screen.remark(&format!("you have {}", words::coins(has))),
            Ok(None) if coins.is_some() => self.screen.remark("this server gives no coins away"),
            Ok(None) => self.screen.remark("this server does not tell here how many coins you have; it does when they are too few"),
            Err(error) => self.fail(&format!("{error:#}")),
        }
    }

    async fn challenge(&mut self, begins: bool) {
        let (api, room) = (self.api.clone(), self.room);
        let outcome = spawn_blocking(move || api.challenge(room, begins)).await.map_err(anyhow::Error::from).flatten();
        // That it is so the room tells.
        if let Err(error) = outcome {
            self.fail(&format!("{error:#}"));
        }
    }

    /// How a user is called; asked for once.
    async fn name_of(&mut self, user: i64) -> String {
        if user == self.api.user_id {
            return self.api.name.clone();
        }
        if let Some(name) = self.names.get(&user) {
            return name.clone();
        }
        let api = self.api.clone();
        let names = spawn_blocking(move || api.names(&[user])).await.map_err(anyhow::Error::from).flatten();
        // A server that does not answer is not asked again for every gift.
        let name = names.ok().and_then(|mut names| names.remove(&user)).unwrap_or_else(|| format!("user {user}"));
        self.remember(user, &name);
        name
    }

    fn remember(&mut self, user: i64, name: &str) {
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        self.names.insert(user, name.to_owned());
    }

    async fn show_gift(&mut self, gift: GiftEvent) {
        if !self.catalogue.iter().any(|item| item.gift_id == gift.gift_id) {
            // Without a catalogue gifts have numbers.
            self.load_catalogue().await.ok();
        }
        let what = self.catalogue.iter().find(|item| item.gift_id == gift.gift_id);
        let what = what.map_or_else(|| format!("gift {}", gift.gift_id), |item| item.name.clone());
        let (sender, receiver) = (self.name_of(gift.sender_id).await, self.name_of(gift.receiver_id).await);
        let line = self.screen.paint.gift((gift.sender_id, &sender), &what, gift.num, &receiver);
        self.screen.show(&line);
    }

    async fn on_bar(&mut self, bar: PkBar) {
        let was_on = self.pk.is_some_and(|pk| pk.challenger_id.is_some());
        self.pk = Some(bar);
        if bar.challenger_id.is_some() {
            return self.meter.offer(bar);
        }
        // Where it ended is seen, however soon after the last gift.
        self.draw_bar().await;
        self.meter = Meter::default();
        self.screen.leave_bar();
        if was_on {
            self.screen.show("the PK is over");
        }
    }

    async fn draw_bar(&mut self) {
        let Some(bar) = self.meter.take(Instant::now()) else { return };
        let Some(challenger) = bar.challenger_id else { return };
        let (anchor, challenger) = (self.name_of(bar.anchor_id).await, self.name_of(challenger).await);
        let (line, width) = self.screen.paint.bar(&bar, &anchor, &challenger, self.screen.is_terminal);
        self.screen.show_bar(&line, width);
    }

    async fn change_room(&mut self, room: i64) {
        if room == self.room && self.is_in {
            return self.screen.remark("you are there already");
        }
        // A full session and a session that is over are told by the events.
        self.client.leave(self.room).await.ok();
        (self.room, self.is_in, self.pk, self.meter) = (room, false, None, Meter::default());
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

    async fn on_event(&mut self, event: Event) {
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
            Event::Gift(gift) if gift.room_id == self.room => self.show_gift(gift).await,
            Event::PkBar { room_id, bar } if room_id == self.room => self.on_bar(bar).await,
            Event::PkOnline { room_id, challenger_id, .. } if room_id == self.room => {
                let name = words::clean(&self.name_of(challenger_id).await);
                self.screen.show(&format!("{name} challenges the anchor"));
            }
            Event::Chat(chat) => {
                if !chat.sender_name.is_empty() {
                    self.remember(chat.sender_id, &chat.sender_name);
                }
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
            Event::Accepted { msg_id, .. } => match self.on_the_way.remove(&msg_id) {
                Some(Sent::Line { to, text }) => {
                    let line = self.screen.paint.accepted(&self.api.name, to, &text);
                    self.screen.show(&line);
                }
                // What was given everybody sees, the giver too.
                Some(Sent::Gift { what, .. }) => self.screen.remark(&format!("paid: {what}")),
                None => {}
            },
            Event::Refused { msg_id, room_id, reason, msg, retry_after } => self.on_refused(msg_id, room_id, reason, &msg, retry_after),
            Event::Disconnected { cause, retry_in } => {
                self.is_connected = false;
                self.screen.trouble(&format!("not connected: {cause}; trying again in {}", words::seconds(retry_in)));
            }
            // Of rooms left behind, told elsewhere, or never asked for by this program.
            Event::Joined { .. }
            | Event::Left { .. }
            | Event::Audience { .. }
            | Event::Gift(_)
            | Event::PkBar { .. }
            | Event::PkOnline { .. }
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
            Some(gift @ Sent::Gift { .. }) if matches!(reason, Reason::Unavailable | Reason::Internal | Reason::RateLimited) => {
                self.screen.trouble(&format!("{sentence} ({}); whether it is paid is asked again", gift.text()));
                self.again.push((Instant::now() + retry_after.unwrap_or(AGAIN_AFTER), gift));
            }
            Some(sent) if !self.screen.is_terminal && (retry_after.is_some() || reason == Reason::RateLimited) => {
                // A script has time, a person reads why and decides.
                self.again.push((Instant::now() + retry_after.unwrap_or(AGAIN_AFTER), sent));
            }
            Some(sent) => self.fail(&format!("{sentence} (\"{}\")", sent.text())),
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
