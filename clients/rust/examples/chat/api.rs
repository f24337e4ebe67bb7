//! What an app's backend does with the HTTP API: tokens, rooms, names, gifts, coins. In a real app none of this, and no API key, is on the
//! phone.

use crate::words::clean;
use anyhow::{Context, Result, anyhow, bail};
use billfish_client::{Ticket, TokenError, TransportKind};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

/// The app everything belongs to here.
const APP_ID: i32 = 10_001;
/// A call that takes longer has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// The list of rooms is a second old at most; a room of ours that is not in it by then never will be.
const LISTED_WITHIN: Duration = Duration::from_secs(3);

/// One server, spoken to in one user's name.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    agent: ureq::Agent,
    base: String,
    authorization: String,
    transports: Vec<TransportKind>,
    pub(crate) name: String,
    pub(crate) user_id: i64,
}

/// A live room.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Room {
    pub(crate) room_id: i64,
    pub(crate) room_name: String,
    pub(crate) audience: u64,
    pub(crate) anchor_id: i64,
    /// 1 normal, 2 PK.
    #[serde(rename = "type")]
    pub(crate) kind: u8,
}

/// A room for PKs, by its type.
const PK_ROOM: u8 = 2;
/// And any other.
const NORMAL_ROOM: u8 = 1;

/// Something that can be given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Item {
    pub(crate) gift_id: i64,
    pub(crate) name: String,
    /// Coins for one.
    pub(crate) price: i64,
}

/// An answer: its status and its document.
struct Answer {
    status: u16,
    document: Value,
}

impl Api {
    pub(crate) fn new(base: &str, key: &str, name: &str, transports: Vec<TransportKind>) -> Self {
        let agent = ureq::Agent::config_builder().timeout_global(Some(CALL_TIMEOUT)).http_status_as_error(false).build().into();
        Self {
            agent,
            base: base.trim_end_matches('/').to_owned(),
            authorization: format!("Bearer {key}"),
            transports,
            name: name.to_owned(),
            user_id: user_id_of(name),
        }
    }

    /// A token and the gateways to go to with it. Names the user on the way.
    pub(crate) fn ticket(&self) -> Result<Ticket, TokenError> {
        #[derive(Deserialize)]
        struct Granted {
            token: String,
            gateways: BTreeMap<String, Vec<String>>,
        }
        let body = json!({ "appId": APP_ID, "userId": self.user_id, "device": "desktop", "nickName": self.name });
        let answer = self.call("POST", "/v1/im/tokens", Some(&body)).map_err(|error| TokenError::Away(format!("{error:#}")))?;
        if let Err(error) = self.check(&answer) {
            // 5xx passes by itself; a key or a name that is refused does not.
            let text = format!("{error:#}");
            return Err(if answer.status >= 500 || answer.status == 429 { TokenError::Away(text) } else { TokenError::Refused(text) });
        }
        let granted: Granted = serde_json::from_value(answer.document).map_err(|error| TokenError::Away(error.to_string()))?;
        let of_kind = |kind: &TransportKind| {
            let listed = granted.gateways.get(kind.listed_as()).into_iter().flatten();
            listed.map(|address| format!("{kind}://{address}")).collect::<Vec<_>>()
        };
        Ok(Ticket { token: granted.token, addresses: self.transports.iter().flat_map(of_kind).collect() })
    }

    /// The room asked for, or the first live one, or a new one.
    pub(crate) fn choose_room(&self, asked: Option<i64>) -> Result<i64> {
        if let Some(room) = asked {
            return match self.room(room)? {
                Some(_) => Ok(room),
                None => bail!("room {room} does not exist or has closed; leave out --room to be brought to a live one"),
            };
        }
        if let Some(room) = self.rooms()?.first() {
            return Ok(room.room_id);
        }
        let own = self.open_room(NORMAL_ROOM)?;
        // Someone else may have found no room at the same moment. The list tells, once ours is in it: the older room is the one to meet in.
        let deadline = Instant::now() + LISTED_WITHIN;
        while Instant::now() < deadline {
            let rooms = self.rooms_of(NORMAL_ROOM)?;
            if rooms.iter().any(|room| room.room_id == own) {
                let oldest = rooms.iter().map(|room| room.room_id).min().unwrap_or(own);
                if oldest != own {
                    self.close_room(own)?;
                }
                return Ok(oldest);
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(own)
    }

    /// A PK room of this user's own: a new one, or the one that is open already.
    pub(crate) fn open_pk_room(&self) -> Result<i64> {
        let own = self.open_room(PK_ROOM)?;
        match self.room(own)? {
            Some(room) if room.kind == PK_ROOM => Ok(own),
            _ => bail!("{} is live already, in room {own}, which is none for PKs; close it first, or take another name", self.name),
        }
    }

    /// A live room; `None`: it does not exist or has closed.
    pub(crate) fn room(&self, room: i64) -> Result<Option<Room>> {
        let answer = self.call("GET", &format!("/v1/rooms/{room}"), None)?;
        if answer.status == 404 {
            return Ok(None);
        }
        self.check(&answer)?;
        serde_json::from_value(answer.document).context("the room is not one").map(Some)
    }

    /// Live rooms, newest first, those for PKs last.
    pub(crate) fn rooms(&self) -> Result<Vec<Room>> {
        let mut rooms = self.rooms_of(NORMAL_ROOM)?;
        rooms.extend(self.rooms_of(PK_ROOM)?);
        Ok(rooms)
    }

    fn rooms_of(&self, kind: u8) -> Result<Vec<Room>> {
        #[derive(Deserialize)]
        struct Rooms {
            rooms: Vec<Room>,
        }
        let answer = self.call("GET", &format!("/v1/rooms?appId={APP_ID}&type={kind}&page=1&pageSize=20"), None)?;
        self.check(&answer)?;
        let rooms: Rooms = serde_json::from_value(answer.document).context("the list of rooms is not one")?;
        Ok(rooms.rooms)
    }

    /// Who is in a room: by name, where the server knows one.
    pub(crate) fn members(&self, room: i64) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Members {
            user_ids: Vec<i64>,
        }
        let answer = self.call("GET", &format!("/v1/rooms/{room}/members?limit=100"), None)?;
        self.check(&answer)?;
        let mut members: Members = serde_json::from_value(answer.document).context("the list of members is not one")?;
        members.user_ids.sort_unstable();
        members.user_ids.dedup();
        if members.user_ids.is_empty() {
            return Ok(Vec::new());
        }
        let names = self.names(&members.user_ids)?;
        Ok(members
            .user_ids
            .iter()
            .map(|user| names.get(user).map_or_else(|| format!("user {user}"), |name| format!("{name} ({user})")))
            .collect())
    }

    /// Names of users, of those that have one.
    pub(crate) fn names(&self, users: &[i64]) -> Result<BTreeMap<i64, String>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Profile {
            user_id: i64,
            nick_name: String,
        }
        #[derive(Deserialize)]
        struct Profiles {
            users: Vec<Profile>,
        }
        let ids = users.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let answer = self.call("GET", &format!("/v1/users?appId={APP_ID}&ids={ids}"), None)?;
        self.check(&answer)?;
        let profiles: Profiles = serde_json::from_value(answer.document).context("the list of users is not one")?;
        let named = profiles.users.into_iter().filter(|profile| !profile.nick_name.is_empty());
        Ok(named.map(|profile| (profile.user_id, profile.nick_name)).collect())
    }

    /// The catalogue of gifts.
    pub(crate) fn gifts(&self) -> Result<Vec<Item>> {
        #[derive(Deserialize)]
        struct Gifts {
            gifts: Vec<Item>,
        }
        let answer = self.call("GET", "/v1/gifts", None)?;
        self.check(&answer)?;
        let gifts: Gifts = serde_json::from_value(answer.document).context("the catalogue is not one")?;
        Ok(gifts.gifts)
    }

    /// This user's coins; `None`: the server does not tell.
    pub(crate) fn coins(&self) -> Result<Option<i64>> {
        let answer = self.call("GET", &format!("/v1/wallet?appId={APP_ID}&userId={}", self.user_id), None)?;
        // A user's own wallet is told by his session token, which a chat at a terminal has none of.
        if matches!(answer.status, 401 | 403 | 404) {
            return Ok(None);
        }
        self.check(&answer)?;
        Ok(["coins", "balance"].into_iter().find_map(|field| answer.document[field].as_i64()))
    }

    /// Gives this user coins, as a backend does after a purchase, and says how many there are; `None`: this server gives none.
    pub(crate) fn grant(&self, coins: i64, uuid: &str) -> Result<Option<i64>> {
        let body = json!({ "appId": APP_ID, "grants": [{ "userId": self.user_id, "coins": coins, "uuid": uuid }] });
        let answer = self.call("POST", "/v1/wallet/grants", Some(&body))?;
        if answer.status == 404 {
            return Ok(None);
        }
        self.check(&answer)?;
        answer.document["grants"][0]["coins"]
            .as_i64()
            .ok_or_else(|| anyhow!("{} gave coins and did not say how many there are", self.base))
            .map(Some)
    }

    /// Challenges the anchor of a PK room, or stops doing so.
    pub(crate) fn challenge(&self, room: i64, begins: bool) -> Result<()> {
        let way = if begins { "online" } else { "offline" };
        let answer = self.call("POST", &format!("/v1/rooms/{room}/pk/{way}"), Some(&json!({ "userId": self.user_id })))?;
        self.check(&answer)
    }

    /// Opens a room, or finds the one this user has open already.
    fn open_room(&self, kind: u8) -> Result<i64> {
        let body = json!({ "appId": APP_ID, "anchorId": self.user_id, "type": kind, "roomName": format!("{}'s room", self.name) });
        let answer = self.call("POST", "/v1/rooms", Some(&body))?;
        if answer.document["code"] != "already-live" {
            self.check(&answer)?;
        }
        answer.document["roomId"].as_i64().ok_or_else(|| anyhow!("{} opened a room and did not say which", self.base))
    }

    fn close_room(&self, room: i64) -> Result<()> {
        let answer = self.call("POST", &format!("/v1/rooms/{room}/close"), Some(&json!({ "anchorId": self.user_id })))?;
        self.check(&answer)
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let url = format!("{}{path}", self.base);
        let sent = match body {
            Some(body) => self.agent.post(&url).header("Authorization", &self.authorization).send_json(body),
            None => self.agent.get(&url).header("Authorization", &self.authorization).call(),
        };
        let mut response = sent.map_err(|error| {
            anyhow!(
                "no Billfish server answers on {} ({error}). Start one with: cargo run --release - or name another with --server",
                self.base
            )
        })?;
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string().with_context(|| format!("the answer to {method} {path} broke off"))?;
        Ok(Answer { status, document: serde_json::from_str(&text).unwrap_or(Value::Null) })
    }

    fn check(&self, answer: &Answer) -> Result<()> {
        if answer.status < 400 {
            return Ok(());
        }
        let code = answer.document["code"].as_str();
        if answer.status == 401 || (answer.status == 403 && code.is_none()) {
            bail!("{} does not take this API key; it stands in the server's data/api-key, give it with --api-key", self.base);
        }
        let detail = clean(answer.document["detail"].as_str().unwrap_or("no reason was given"));
        // What the services say is meant for people.
        if code.is_some() && answer.status < 500 {
            bail!("{detail}");
        }
        bail!("{} answered {}: {detail}", self.base, answer.status)
    }
}

/// The same name is always the same user: FNV-1a over the name, brought to nine digits that a person can type. Two names in a billion share
/// one, and would be the same user.
pub(crate) fn user_id_of(name: &str) -> i64 {
    let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
    100_000_000 + i64::try_from(hash % 900_000_000).expect("below 900 million")
}

#[cfg(test)]
mod tests {
    use super::user_id_of;

    #[test]
    fn a_name_is_always_the_same_user_and_another_name_another() {
        assert_eq!(user_id_of("alice"), user_id_of("alice"));
        assert_ne!(user_id_of("alice"), user_id_of("bob"));
        for name in ["", "a", "Ünïcode ✓", "alice"] {
            assert!((100_000_000..1_000_000_000).contains(&user_id_of(name)));
        }
    }
}
