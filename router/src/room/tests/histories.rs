//! Random histories of a room: who says what, which answers of the log are lost, when its owner moves or dies.

use super::{
    town::{Router, SEEN, Town, interest},
    *,
};
use proptest::prelude::{Just, ProptestConfig, Strategy, prop, prop_oneof, proptest};
use std::{collections::BTreeSet, sync::atomic::Ordering::Relaxed};

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A viewer says something, and asks again until he is answered.
    Say {
        gateway: usize,
    },
    /// A viewer says something; the log takes so long; he asks again at the end.
    Begin {
        gateway: usize,
        answer_ms: u64,
    },
    /// The backend says something that must arrive, and does not ask again.
    Push,
    /// So many answers of the log are lost.
    AnswersLost(u32),
    /// So many appends are lost.
    AppendsLost(u32),
    /// The room moves to the other router.
    Move,
    /// The owner dies, with what is on its links, and begins anew.
    Crash,
    /// The store is away for the owner for a while, and people talk.
    Away {
        ms: u64,
    },
    Wait {
        ms: u64,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2usize).prop_map(|gateway| Step::Say { gateway }),
        3 => (0..2usize, 0..3_000u64).prop_map(|(gateway, answer_ms)| Step::Begin { gateway, answer_ms }),
        3 => Just(Step::Push),
        2 => (1..5u32).prop_map(Step::AnswersLost),
        2 => (1..5u32).prop_map(Step::AppendsLost),
        2 => Just(Step::Move),
        2 => Just(Step::Crash),
        1 => (0..15_000u64).prop_map(|ms| Step::Away { ms }),
        2 => (0..8_000u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

/// A gateway with one viewer, as a gateway is: it tells the owner what it has seen, and passes over what it has seen.
struct Viewer {
    name: &'static str,
    user: i64,
    links: [Gateway; 2],
    last_seq: i64,
    epoch: u64,
    shown: Vec<String>,
}

impl Viewer {
    fn hear(&mut self) {
        for link in &mut self.links {
            while let Ok(kind) = link.link.receiver.try_recv() {
                link.heard.push(kind);
            }
            for kind in link.heard.drain(..) {
                assert!(!matches!(kind, Kind::Kick(_)), "{kind:?}");
                let Kind::RoomPush(push) = kind else { continue };
                let seq = body(&push).seq;
                if push.epoch < self.epoch || seq <= self.last_seq {
                    continue;
                }
                (self.epoch, self.last_seq) = (push.epoch, seq);
                if body(&push).key.is_empty() {
                    self.shown.push(data(&push)["content"].as_str().unwrap().to_owned());
                }
            }
        }
    }
}

/// Two routers, two gateways, one room, and what was said in it.
struct Story {
    town: Town,
    routers: Vec<Router>,
    dead: Vec<Router>,
    owner: usize,
    room: RoomId,
    viewers: Vec<Viewer>,
    said: usize,
    accepted: BTreeSet<String>,
    /// Asked and not answered: by whom, and what.
    open: Vec<(usize, String)>,
    /// Messages were pushed that are in no log yet: whoever loses them then, loses them.
    is_behind: bool,
}

const NAMES: [&str; 2] = ["r1", "r2"];

impl Story {
    async fn begin() -> Self {
        let town = Town::new();
        town.shows(&NAMES[..1]);
        let routers = vec![town.router(NAMES[0]).await, town.router(NAMES[1]).await];
        tokio::time::sleep(SEEN).await;
        let room = routers[0].house.open(ANCHOR).await;
        let mut viewers = Vec::new();
        for (name, user) in [("g1", ALICE), ("g2", BOB)] {
            let links = [routers[0].house.gateway(name), routers[1].house.gateway(name)];
            let mut viewer = Viewer { name, user, links, last_seq: 0, epoch: 0, shown: Vec::new() };
            viewer.last_seq = viewer.links[0].join(room, user).await.seq;
            viewers.push(viewer);
        }
        let (dead, accepted, open) = (Vec::new(), BTreeSet::new(), Vec::new());
        Self { town, routers, dead, owner: 0, room, viewers, said: 0, accepted, open, is_behind: false }
    }

    fn next(&mut self) -> String {
        self.said += 1;
        format!("m{}", self.said)
    }

    fn owner(&self) -> &Router {
        &self.routers[self.owner]
    }

    /// As a gateway does: tries again until somebody takes it.
    async fn say(&mut self, viewer: usize, content: &str) {
        for _ in 0..100 {
            let (owner, room) = (self.owner, self.room);
            let Viewer { links, user, .. } = &mut self.viewers[viewer];
            let id = links[owner].call(*user, chat(room, content, content)).await;
            let answer = links[owner].answer(id).await;
            if is_accepted(&answer) {
                self.accepted.insert(content.to_owned());
                return;
            }
            let is_later = matches!(answer, reply::Result::Moved(_) | reply::Result::Refused(Refused { code: 5001, .. }));
            assert!(is_later, "{answer:?}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        panic!("{content} was never taken");
    }

    async fn tell(&mut self) {
        for viewer in &mut self.viewers {
            viewer.hear();
            viewer.links[1 - self.owner].interest(self.room, false).await;
            interest(&viewer.links[self.owner], self.room, viewer.last_seq).await;
        }
    }

    /// The log answers again, and what was pushed without it is written.
    async fn heal(&mut self) {
        let between = &self.owner().between;
        between.appends_lost.store(0, Relaxed);
        between.answers_lost.store(0, Relaxed);
        tokio::time::sleep(SEEN + SEEN).await;
        self.is_behind = false;
    }

    async fn step(&mut self, step: Step) {
        let now_ms = self.town.state.clock.now_ms();
        let users: Vec<_> = self.viewers.iter().map(|viewer| (APP, UserId(viewer.user))).collect();
        self.town.state.presence.touch(&users, now_ms).await.unwrap();
        match step {
            Step::Say { gateway } => {
                let content = self.next();
                self.say(gateway, &content).await;
            }
            Step::Begin { gateway, answer_ms } => {
                let content = self.next();
                self.owner().between.answer_ms.store(answer_ms, Relaxed);
                let (owner, room) = (self.owner, self.room);
                let Viewer { links, user, .. } = &mut self.viewers[gateway];
                links[owner].call(*user, chat(room, &content, &content)).await;
                settle().await;
                self.open.push((gateway, content));
            }
            Step::Push => {
                let content = self.next();
                let push = PushRequest { qos: 1, ..room_push(self.room, &json!({"content": content}).to_string()) };
                if self.owner().house.handle.push(push).await.is_ok() {
                    self.accepted.insert(content);
                }
            }
            Step::AnswersLost(count) => {
                self.is_behind = true;
                self.owner().between.answers_lost.store(count, Relaxed);
            }
            Step::AppendsLost(count) => {
                self.is_behind = true;
                self.owner().between.appends_lost.store(count, Relaxed);
            }
            Step::Move => {
                if self.is_behind {
                    self.heal().await;
                }
                self.owner = 1 - self.owner;
                self.town.shows(&[NAMES[self.owner]]);
                tokio::time::sleep(SEEN).await;
                self.tell().await;
            }
            Step::Crash => {
                if self.is_behind {
                    self.heal().await;
                }
                self.owner().cut(true);
                let next = self.town.router(NAMES[self.owner]).await;
                for viewer in &mut self.viewers {
                    viewer.links[self.owner] = next.house.gateway(viewer.name);
                }
                self.dead.push(std::mem::replace(&mut self.routers[self.owner], next));
                tokio::time::sleep(SEEN).await;
                self.tell().await;
            }
            Step::Away { ms } => {
                self.heal().await;
                self.owner().cut(true);
                for viewer in 0..2 {
                    let content = self.next();
                    // A room that sleeps, or is another's still, cannot be said anything in; then it is asked again at the end.
                    let (owner, room) = (self.owner, self.room);
                    let Viewer { links, user, .. } = &mut self.viewers[viewer];
                    let id = links[owner].call(*user, chat(room, &content, &content)).await;
                    if is_accepted(&links[owner].answer(id).await) {
                        self.accepted.insert(content);
                    } else {
                        self.open.push((viewer, content));
                    }
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                }
                self.owner().cut(false);
                self.heal().await;
            }
            Step::Wait { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
        }
        self.viewers.iter_mut().for_each(Viewer::hear);
    }

    async fn end(mut self) {
        self.heal().await;
        for (viewer, content) in std::mem::take(&mut self.open) {
            self.say(viewer, &content).await;
        }
        let last = self.next();
        self.say(0, &last).await;
        settle().await;
        for viewer in &mut self.viewers {
            viewer.hear();
            let shown: BTreeSet<String> = viewer.shown.iter().cloned().collect();
            assert_eq!(shown.len(), viewer.shown.len(), "nothing twice: {:?}", viewer.shown);
            let missed: Vec<&String> = self.accepted.difference(&shown).collect();
            assert!(missed.is_empty(), "{} missed {missed:?}: {:?}", viewer.name, viewer.shown);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Whatever becomes of owners and of the answers of their log: what was accepted is shown to every viewer once, in rising numbers.
    #[test]
    fn what_is_accepted_is_shown_to_everyone_once(steps in prop::collection::vec(any_step(), 0..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let mut story = Story::begin().await;
            for step in steps {
                story.step(step).await;
            }
            story.end().await;
        });
    }
}
