//! What the anchor and the administrator may order: closing, muting, banning, slow mode, words.
//!
//! Each is written to the records first, then holds in the room, then is told to it. An order that fails half-way may be repeated.

use super::{End, Out, Room};
use crate::{
    Refusal,
    handle::Operator,
    ownership::Hold,
    services::{
        ports::Sanction,
        room::{FOREVER_MS, Notice, SLOW_MODE_MS_MAX, check_block_words},
    },
};
use billfish_link::message::{Evict, envelope::Kind};
use billfish_state::{AppId, UserId};
use billfish_wire::{Class, Reason};

/// An order to a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Close {
        anchor: UserId,
    },
    Sanction {
        by: Operator,
        user: UserId,
        sanction: Sanction,
        for_ms: Option<u64>,
    },
    Lift {
        by: Operator,
        user: UserId,
        sanction: Sanction,
    },
    SlowMode {
        by: Operator,
        gap_ms: u64,
    },
    Words {
        by: Operator,
        words: Vec<String>,
    },
    /// A user of this business line, or of whichever is the room's.
    PkOnline {
        app: Option<AppId>,
        challenger: UserId,
    },
    PkOffline {
        app: Option<AppId>,
        challenger: UserId,
    },
}

impl Room {
    pub(super) async fn on_order(&mut self, order: Order) -> Result<(), Refusal> {
        let now_ms = self.core.state.clock.now_ms();
        match self.hold().await {
            Hold::Owned => {}
            Hold::Degraded => return Err(Refusal::unavailable()),
            Hold::Lost => {
                self.lose().await;
                return Err(self.core.ownership.elsewhere(self.record.room));
            }
        }
        match order {
            Order::Close { anchor } => self.close(anchor, now_ms).await,
            // Ids of users are those of their business line: another's user of this id is somebody else.
            Order::PkOnline { app, .. } | Order::PkOffline { app, .. } if app.is_some_and(|app| app != self.record.app) => {
                Err(Refusal::new(Reason::RoomNotFound))
            }
            Order::PkOnline { challenger, .. } => self.begin_pk(challenger, now_ms).await,
            Order::PkOffline { challenger, .. } => self.end_pk(challenger, now_ms).await,
            Order::Sanction { by, user, sanction, for_ms } => {
                self.may_order(by)?;
                if user == self.record.anchor {
                    return Err(Refusal::because(Reason::Malformed, "the anchor of a room is neither muted nor banned in it"));
                }
                self.rules.check_room_for(user)?;
                let until_ms = for_ms.map_or(FOREVER_MS, |for_ms| now_ms.saturating_add(for_ms).min(FOREVER_MS));
                self.core.records.put_sanction(self.record.room, user, sanction, until_ms).await?;
                let notice = match sanction {
                    Sanction::Mute => {
                        self.rules.mute(user, until_ms);
                        Notice::Muted { user, until_ms }
                    }
                    Sanction::Ban => {
                        self.rules.ban(user, until_ms);
                        Notice::Banned { user, until_ms }
                    }
                };
                self.apply(notice.effects(), now_ms).await;
                Ok(())
            }
            Order::Lift { by, user, sanction } => {
                self.may_order(by)?;
                self.core.records.lift_sanction(self.record.room, user, sanction).await?;
                let notice = match sanction {
                    Sanction::Mute => {
                        self.rules.unmute(user);
                        Notice::Unmuted { user }
                    }
                    Sanction::Ban => {
                        self.rules.unban(user);
                        Notice::Unbanned { user }
                    }
                };
                self.apply(notice.effects(), now_ms).await;
                Ok(())
            }
            Order::SlowMode { by, gap_ms } => {
                self.may_order(by)?;
                if gap_ms > SLOW_MODE_MS_MAX {
                    return Err(Refusal::because(Reason::Malformed, "slow mode is at most ten minutes"));
                }
                self.core.records.set_slow_mode(self.record.room, gap_ms).await?;
                self.rules.set_slow_mode(gap_ms);
                self.apply(Notice::SlowMode { gap_ms }.effects(), now_ms).await;
                Ok(())
            }
            Order::Words { by, words } => {
                self.may_order(by)?;
                let words = check_block_words(&words)?;
                self.core.records.set_room_block_words(self.record.room, &words).await?;
                self.rules.set_words(&words);
                Ok(())
            }
        }
    }

    /// The records first: from there on the room is closed, whatever happens to this process. Then its members hear of it and leave.
    async fn close(&mut self, anchor: UserId, now_ms: u64) -> Result<(), Refusal> {
        if anchor != self.record.anchor {
            return Err(Refusal::because(Reason::NotYourUser, "only its anchor closes a room"));
        }
        let (app, room) = (self.record.app, self.record.room);
        // Nobody is told of gifts once the room is closed.
        self.tell_all_gifts().await;
        // `None`: an earlier try got this far.
        self.core.records.close_room(room, now_ms).await?;
        self.core.catalog.closed(room, now_ms).await;
        self.apply(Notice::Closed.effects(), now_ms).await;
        let evict = Evict { app_id: app.0, room_id: room.0, user_id: 0, epoch: self.claim.epoch };
        self.outbox.push(Out::Tell { message: Kind::Evict(evict), class: Class::Control });
        self.flush().await;
        let removed = async {
            self.core.state.members.remove(app, room).await?;
            self.core.state.room_log.remove(room).await?;
            if let Some(bar) = self.pk.bar.take() {
                self.core.state.pk_bars.clear(room, bar.challenger, bar.since_seq).await?;
            }
            self.core.state.cache.remove(&super::states_key(room)).await
        };
        if let Err(error) = removed.await {
            // They expire by themselves; nobody can join to see them.
            self.core.metrics.store_failed("close", &error);
        }
        self.end = Some(End::Closed);
        Ok(())
    }

    fn may_order(&self, by: Operator) -> Result<(), Refusal> {
        match by {
            Operator::Admin => Ok(()),
            Operator::User(user) if user == self.record.anchor => Ok(()),
            Operator::User(_) => Err(Refusal::because(Reason::NotYourUser, "only the anchor or an administrator may do this")),
        }
    }
}
