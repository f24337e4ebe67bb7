//! Everything a router is, behind its [`crate::Handle`].

use crate::{
    error::Refusal,
    handle::{
        IssuedToken, KickRequest, ListRooms, MembersView, MuteRequest, OpenRoom, Opened, Operator, PushRequest, Pushed, Result, RoomPage,
        RoomView,
    },
    services::ports::Profile,
};
use billfish_state::{AppId, DeviceKind, RoomId, UserId};
use std::time::Duration;

/// The router's shared parts.
#[derive(Debug)]
pub(crate) struct Core {}

macro_rules! soon {
    ($($name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        impl Core {
            $(#[expect(unused_variables, clippy::unused_async, reason = "the next commit fills it")]
            pub(crate) async fn $name(&self, $($arg: $type),*) -> Result<$result> {
                Err(Refusal::unavailable())
            })*
        }
    };
}

soon! {
    issue_token(app: AppId, user: UserId, device: Option<DeviceKind>) -> IssuedToken;
    online(app: AppId, users: &[UserId]) -> Vec<bool>;
    push(request: PushRequest) -> Pushed;
    kick(request: KickRequest) -> u64;
    open_room(request: OpenRoom) -> Opened;
    room(room: RoomId) -> RoomView;
    list_rooms(request: ListRooms) -> RoomPage;
    close_room(room: RoomId, anchor: UserId) -> ();
    members(room: RoomId, cursor: u64, limit: usize) -> MembersView;
    mute(request: MuteRequest) -> ();
    unmute(room: RoomId, user: UserId, by: Operator) -> ();
    ban(request: MuteRequest) -> ();
    unban(room: RoomId, user: UserId, by: Operator) -> ();
    set_slow_mode(room: RoomId, by: Operator, gap: Duration) -> ();
    set_room_block_words(room: RoomId, by: Operator, words: Vec<String>) -> ();
    set_block_words(words: Vec<String>) -> ();
    put_users(app: AppId, profiles: Vec<Profile>) -> ();
    users(app: AppId, users: &[UserId]) -> Vec<Profile>;
}
