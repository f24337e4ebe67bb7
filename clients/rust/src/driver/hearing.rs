//! From what the session machine tells to what the app hears: gifts and bars pass through their memory on the way.

use super::Driver;
use crate::{
    event::{self, Event},
    gift::{Failure, giving::Refused},
};
use billfish_session::client::ClientEvent;

impl Driver {
    /// Tells the app what it is to hear of this.
    pub(super) fn hear(&mut self, told: ClientEvent) {
        if let ClientEvent::Push(body) = told {
            match Failure::read(&body) {
                Some(failure) => {
                    let now = self.now();
                    self.waiting.extend(self.giving.on_failure(now, failure));
                }
                None => self.waiting.extend(self.stage.hear(body)),
            }
        } else if let ClientEvent::Joined { room_id, seq, mut snapshot, gap } = told {
            let bar = self.stage.on_joined(room_id, gap, &mut snapshot.states);
            self.waiting.extend(event::of_session(ClientEvent::Joined { room_id, seq, snapshot, gap }, self.transport));
            self.waiting.extend(bar.map(|bar| Event::PkBar { room_id, bar }));
        } else if self.is_for_the_app(&told) {
            self.waiting.extend(event::of_session(told, self.transport));
        }
    }

    /// What is told as it is, unless it is about a gift that goes on.
    fn is_for_the_app(&mut self, told: &ClientEvent) -> bool {
        match told {
            ClientEvent::Refused { msg_id: Some(msg_id), reason, retry_after_ms, .. } => {
                let now = self.now();
                return self.giving.on_refused(now, msg_id, *reason, *retry_after_ms) == Refused::Told;
            }
            ClientEvent::Accepted { msg_id, .. } => self.giving.on_accepted(msg_id),
            ClientEvent::Left { room_id } => self.stage.on_left(*room_id),
            // The session may have moved: what was said on the former connection is said of a copy.
            ClientEvent::LoggedIn { .. } => self.giving.on_connection_over(),
            ClientEvent::Refused { msg_id: None, .. }
            | ClientEvent::Push(_)
            | ClientEvent::Joined { .. }
            | ClientEvent::History { .. }
            | ClientEvent::InboxRead { .. }
            | ClientEvent::Kicked { .. }
            | ClientEvent::MoveTo { .. }
            | ClientEvent::HeartbeatEcho { .. }
            | ClientEvent::Unreadable { .. }
            | ClientEvent::Closed { .. } => {}
        }
        true
    }
}
