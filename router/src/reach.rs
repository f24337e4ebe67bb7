//! Whether gateways reach this router: rooms that are where nobody can go are dead.
//!
//! ```text
//!   start ── gateways are registered, none is linked ──► unreached ── one links, or none is registered ──► reached
//!                                                            ▲                                                 │
//!                                                            └──────── all links gone for longer than GRACE ───┘
//! ```
//!
//! - Unreached, it registers as draining: gateways dial it all the same, and its rooms are others' meanwhile.
//! - Where no gateway is registered nobody could have come: the first node of a cluster takes rooms.
//! - Links of other routers prove nothing: a firewall, or a list of routers that lacks this one, keeps gateways alone away.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// A link that is cut is made again within two seconds and a hello, and gateways may all be started again at the same time.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// What is known of it.
#[derive(Debug, Default)]
pub(crate) struct Reach(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// It was reached, and has not been unreached for longer than [`GRACE`] since.
    is_proven: bool,
    without_since: Option<Instant>,
    registered: usize,
}

impl Reach {
    /// So many gateways are linked, of so many that are registered. `true`: whether it takes rooms has changed.
    pub(crate) fn look(&self, linked: usize, registered: usize, now: Instant) -> bool {
        let mut state = self.lock();
        let before = state.takes_rooms(now);
        state.registered = registered;
        if linked > 0 || registered == 0 {
            state.is_proven = true;
            state.without_since = None;
        } else {
            let since = *state.without_since.get_or_insert(now);
            state.is_proven &= now.duration_since(since) < GRACE;
        }
        state.takes_rooms(now) != before
    }

    /// Whether rooms are right here.
    pub(crate) fn takes_rooms(&self) -> bool {
        self.lock().takes_rooms(Instant::now())
    }

    /// What to tell an operator, once it has lasted.
    pub(crate) fn trouble(&self) -> Option<String> {
        let state = self.lock();
        let without = state.without_since?.elapsed();
        (without >= GRACE).then(|| {
            format!(
                "none of {} registered gateways has a link to this router, for {} s: its rooms go to others; look at router.link.listen, \
                 router.link.advertise, the links' secret and the network between them",
                state.registered,
                without.as_secs()
            )
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn takes_rooms(&self, now: Instant) -> bool {
        self.without_since.is_none_or(|since| self.is_proven && now.duration_since(since) < GRACE)
    }
}

#[cfg(test)]
mod tests {
    use super::{GRACE, Reach};
    use std::time::Duration;
    use tokio::time::{Instant, advance};

    #[tokio::test(start_paused = true)]
    async fn one_that_starts_among_gateways_takes_rooms_once_it_has_a_link() {
        let reach = Reach::default();
        assert!(reach.look(0, 3, Instant::now()));
        assert!(!reach.takes_rooms() && reach.trouble().is_none());
        advance(GRACE).await;
        assert!(!reach.look(0, 3, Instant::now()));
        assert!(!reach.takes_rooms() && reach.trouble().is_some_and(|why| why.contains("none of 3 registered gateways")));
        assert!(reach.look(1, 3, Instant::now()));
        assert!(reach.takes_rooms() && reach.trouble().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_node_takes_rooms_and_gateways_that_come_have_time_to_link() {
        let reach = Reach::default();
        assert!(!reach.look(0, 0, Instant::now()) && reach.takes_rooms());
        assert!(!reach.look(0, 1, Instant::now()) && reach.takes_rooms());
        advance(GRACE - Duration::from_millis(1)).await;
        assert!(!reach.look(1, 1, Instant::now()) && reach.takes_rooms());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_cut_off_gives_its_rooms_up_when_that_lasts_and_takes_them_again_with_a_link_alone() {
        let reach = Reach::default();
        reach.look(2, 2, Instant::now());
        reach.look(0, 2, Instant::now());
        advance(GRACE - Duration::from_millis(1)).await;
        reach.look(0, 2, Instant::now());
        assert!(reach.takes_rooms() && reach.trouble().is_none());
        advance(Duration::from_millis(1)).await;
        reach.look(0, 2, Instant::now());
        assert!(!reach.takes_rooms() && reach.trouble().is_some());
        reach.look(1, 2, Instant::now());
        assert!(reach.takes_rooms());
    }
}
