//! Pushes that do not belong to a room: to users, and to everyone.
//!
//! - QoS 1 to users is in their inboxes before it is on a link: whoever is offline, or behind a stalled link, pulls it later.
//! - Pushes to one user run in his lane, so the ids of his inbox and the order on his links agree.
//! - Everyone: one message per gateway, one gateway after another.

use crate::{Refusal, core::Core, metrics::Audience, route, services::Outgoing};
use billfish_link::message::{AllPush, Push, UserPush, envelope::Kind};
use billfish_state::{AppId, UserId};
use billfish_wire::{Body, Encoding};
use bytes::Bytes;

/// What became of a push to users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// The inbox id of the first user.
    pub(crate) msg_id: Option<String>,
    /// Users whose inbox or gateway has it.
    pub(crate) users: u64,
}

/// Pushes to users. They all belong to one lane, and the caller is that lane.
pub(crate) async fn to_users(core: &Core, app: AppId, users: &[UserId], push: &Outgoing, now_ms: u64) -> Result<Delivered, Refusal> {
    let mut msg_ids = Vec::new();
    if push.acknowledged {
        let body = Bytes::from(body(push, now_ms).to_vec(Encoding::Json));
        msg_ids = core.state.inbox.append(app, users, &core.next_inbox_id(now_ms), body, now_ms).await?;
    }
    let routes = match core.state.routes.lookup(app, users, now_ms).await {
        Ok(routes) => routes,
        // It is in the inbox: the client finds it there.
        Err(error) if push.acknowledged => {
            core.metrics.store_failed("routes", &error);
            Vec::new()
        }
        Err(error) => return Err(error.into()),
    };
    let online = routes.iter().filter(|routes| !routes.is_empty()).count();
    let reached = if push.acknowledged { users.len() } else { online };
    for ((node, msg_id), users) in route::by_gateway(routes, &msg_ids) {
        let Some(gateway) = core.links.get(&node) else {
            core.metrics.link_dropped(push.class, "no_link");
            continue;
        };
        let message = Kind::UserPush(UserPush {
            app_id: app.0,
            user_ids: users.into_iter().map(|user| user.0).collect(),
            push: Some(message(push, msg_id, now_ms)),
            session: 0,
        });
        if gateway.send(message, push.class).await {
            core.metrics.pushed(Audience::Users, push.class);
        }
    }
    Ok(Delivered { msg_id: msg_ids.into_iter().next(), users: reached as u64 })
}

/// Pushes to everyone who is connected. Gives the number of gateways that took it.
pub(crate) async fn to_everyone(core: &Core, app: AppId, push: &Outgoing, now_ms: u64) -> u64 {
    let mut taken = 0;
    for (index, gateway) in core.links.all().into_iter().enumerate() {
        if index > 0 {
            tokio::time::sleep(core.config.push.everyone_pace).await;
        }
        let message = Kind::AllPush(AllPush { app_id: app.0, push: Some(message(push, String::new(), now_ms)) });
        if gateway.send(message, push.class).await {
            core.metrics.pushed(Audience::All, push.class);
            taken += 1;
        }
    }
    taken
}

fn message(push: &Outgoing, msg_id: String, now_ms: u64) -> Push {
    Push {
        biz_code: push.biz_code.0,
        data: push.data.clone(),
        msg_id,
        room_id: 0,
        seq: 0,
        ts: now_ms.cast_signed(),
        qos: i32::from(push.acknowledged),
        class: push.class.number(),
        key: String::new(),
    }
}

/// The push as an inbox keeps it: complete but for its `msgId`.
fn body(push: &Outgoing, now_ms: u64) -> Body {
    Body {
        biz_code: Some(push.biz_code.0),
        data: Some(push.data.clone()),
        ts: Some(now_ms.cast_signed()),
        qos: Some(1),
        class: Some(push.class.number()),
        ..Body::default()
    }
}
