//! Random histories over all ports, played on a store and on the in-process one at once: every answer must be the same.
//!
//! Where a port leaves a store free, what is compared is what it promises: what a sweep names first, the order of a page, where epochs
//! begin, whether something that has run out is still seen by a call that is told no time.

use crate::suite::{APP, DAY, HOUR, MINUTE, OTHER_APP, SECOND, Store, at, body, histories_of, users};
use billfish_state::port::{ACKS_PER_USER_MAX, MEMBERS_KEPT_MS, PRESENCE_KEPT_MS};
use billfish_state::*;
use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use std::cmp::Ordering;
use std::collections::BTreeMap;

macro_rules! differential {
    ($name:ident, $store:ty) => {
        #[test]
        fn $name() {
            let Some(_server) = <$store as $crate::suite::Store>::server() else { return };
            $crate::differential::answers_are_those_of_the_model::<$store>();
        }
    };
}
pub(crate) use differential;

/// Calls after which a sweep that looks at a part each time must have met everything.
const SWEEPS: usize = 40;
/// Seqs end here: an epoch above and a number below, as large as browsers count.
const LAST_SEQ: i64 = ((1 << 21) - 1) << 32;
/// Groups of ports.
const GROUPS: usize = 9;
/// Steps of a history, at most.
const STEPS_MAX: usize = 60;

type Checked = Result<(), TestCaseError>;

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Issue { token: u8, user: i64, life: u64 },
    Revoke(u8),
    Touch { users: Vec<i64>, ago: u64 },
    Gone { users: Vec<i64>, ago: u64 },
    Online { ago: u64 },
    Sweep { ago: u64, limit: usize },
    Bind(Vec<AnyRoute>, u64),
    Renew(Vec<AnyRoute>, u64),
    Unbind(Vec<AnyRoute>),
    Record(Vec<(i64, u16, u64)>),
    RecordMany { user: i64, count: u16, due: u64 },
    Remove(Vec<(i64, u16)>),
    Postpone { before: u64, limit: usize },
    Append { users: Vec<i64>, asked: Asked, text: Text },
    AppendMany { user: i64, count: u64 },
    AppendOnce { user: i64, asked: Asked, text: Text, claim: AnyClaim },
    AppendEach(Vec<(i64, Asked, Text, Option<AnyClaim>)>),
    Taken { user: i64, claim: AnyClaim },
    ReadInbox { user: i64, after: Option<usize>, limit: usize },
    Ack(Vec<(i64, usize)>),
    Log { room: i64, entries: Vec<(i64, Text, Option<AnyClaim>)> },
    LogMany { room: i64, count: i64 },
    FenceLog { room: i64, ahead: i64 },
    ReadLog { room: i64, back: i64, limit: usize },
    LastOfLog { room: i64, limit: usize },
    ForgetLog(i64),
    Epoch,
    Join(i64, Vec<(i64, usize)>),
    Leave(i64, Vec<(i64, usize)>),
    Members(i64),
    Empty(i64),
    Register { kind: bool, id: u8, incarnation: u64, life: u64 },
    Deregister { kind: bool, id: u8, incarnation: u64 },
    Acquire { name: u8, holder: u8, life: u64 },
    Release { name: u8, holder: u8, is_late: bool },
    Hit(Vec<(u8, u32, u64)>),
    Claim { user: i64, ids: Vec<u8>, life: u64 },
    GiveBack { user: i64, id: u8 },
    Put { key: u8, text: Text, life: u64 },
    Forget(u8),
    PutBar { room: i64, challenger: i64, since: i64, gifts: Vec<i64> },
    AnyGift { room: i64, since: i64, after: i64, seq: i64, by: i64 },
    NextGift { room: i64, ahead: i64, by: i64, is_one_missed: bool },
    EndPk { room: i64, challenger: i64, since: i64 },
    LoseBar(i64),
    KeepCode { phone: u8, code: u8, life: u64 },
    CheckCode { phone: u8, code: u8 },
    OpenSession { user: i64, life: u64 },
    CloseSession { back: usize },
    CloseSessions(i64),
}

#[derive(Clone, Debug)]
struct AnyRoute {
    user: i64,
    device: usize,
    session: u64,
}

/// An inbox id around now.
#[derive(Clone, Debug)]
struct Asked {
    ago: u64,
    n: u64,
}

/// A body: which byte, how many of it.
#[derive(Clone, Debug)]
struct Text(u8, usize);

#[derive(Clone, Debug)]
struct AnyClaim {
    sender: i64,
    msg_id: u8,
    life: u64,
}

/// What may happen in one group of ports. A history stays in one group most often, so that it comes far there; in a fat one
/// a few bodies are too much for one log or inbox.
fn any_step(group: usize, is_fat: bool) -> BoxedStrategy<Step> {
    let user = || prop_oneof![4 => 0i64..4, 1 => 100i64..104, 1 => -3i64..0];
    let some = || vec(user(), 0..5);
    let room = || 0i64..3;
    let life = || prop_oneof![0..20 * SECOND, 0..2 * HOUR];
    let route = || vec((0i64..3, 0usize..3, 1u64..4).prop_map(|(user, device, session)| AnyRoute { user, device, session }), 1..4);
    let asked = || (0..3 * SECOND, 0u64..3).prop_map(|(ago, n)| Asked { ago: ago / SECOND * SECOND, n });
    let length = move || if is_fat { prop_oneof![0usize..3, Just(300_000)].boxed() } else { (0usize..3).boxed() };
    let text = move || (0u8..3, length()).prop_map(|(byte, length)| Text(byte, length));
    let claim = || (0i64..2, 0u8..3, life()).prop_map(|(sender, msg_id, life)| AnyClaim { sender, msg_id, life });
    let members = || vec((0i64..12, 0usize..3), 0..6);
    let by = || prop_oneof![4 => -30i64..=30, 1 => -1_000_000_000i64..=1_000_000_000];
    match group {
        0 => prop_oneof![
            3 => (0u8..4, user(), life()).prop_map(|(token, user, life)| Step::Issue { token, user, life }),
            1 => (0u8..4).prop_map(Step::Revoke),
            3 => (0u8..3, text(), life()).prop_map(|(key, text, life)| Step::Put { key, text, life }),
            1 => (0u8..3).prop_map(Step::Forget),
            4 => vec((0u8..3, 0u32..3, prop_oneof![Just(10 * SECOND), Just(MINUTE)]), 1..5).prop_map(Step::Hit),
            3 => (0i64..2, vec(0u8..4, 0..4), life()).prop_map(|(user, ids, life)| Step::Claim { user, ids, life }),
            1 => (0i64..2, 0u8..4).prop_map(|(user, id)| Step::GiveBack { user, id }),
        ]
        .boxed(),
        1 => prop_oneof![
            4 => (some(), 0..3 * SECOND).prop_map(|(users, ago)| Step::Touch { users, ago }),
            1 => (some(), 0..3 * SECOND).prop_map(|(users, ago)| Step::Gone { users, ago }),
            3 => (0..PRESENCE_KEPT_MS).prop_map(|ago| Step::Online { ago }),
            1 => (0..PRESENCE_KEPT_MS, 0usize..6).prop_map(|(ago, limit)| Step::Sweep { ago, limit }),
            4 => (route(), life()).prop_map(|(routes, life)| Step::Bind(routes, life)),
            3 => (route(), life()).prop_map(|(routes, life)| Step::Renew(routes, life)),
            2 => route().prop_map(Step::Unbind),
        ]
        .boxed(),
        2 => prop_oneof![
            4 => vec((user(), 0u16..4, 0..MINUTE), 0..5).prop_map(Step::Record),
            2 => (user(), 200u16..700, 0..MINUTE).prop_map(|(user, count, due)| Step::RecordMany { user, count, due }),
            3 => vec((user(), 0u16..4), 0..5).prop_map(Step::Remove),
            2 => (0..2 * MINUTE, 0usize..20).prop_map(|(before, limit)| Step::Postpone { before, limit }),
        ]
        .boxed(),
        3 => prop_oneof![
            6 => (vec(0i64..3, 0..3), asked(), text()).prop_map(|(users, asked, text)| Step::Append { users, asked, text }),
            1 => (0i64..2, 100u64..300).prop_map(|(user, count)| Step::AppendMany { user, count }),
            5 => (0i64..3, asked(), text(), claim()).prop_map(|(user, asked, text, claim)| Step::AppendOnce { user, asked, text, claim }),
            4 => vec((0i64..3, asked(), text(), option::of(claim())), 0..20).prop_map(Step::AppendEach),
            2 => (0i64..3, claim()).prop_map(|(user, claim)| Step::Taken { user, claim }),
            5 => (0i64..3, option::of(0usize..8), 0usize..9).prop_map(|(user, after, limit)| Step::ReadInbox { user, after, limit }),
            6 => vec((0i64..3, 0usize..6), 1..9).prop_map(Step::Ack),
        ]
        .boxed(),
        4 => prop_oneof![
            9 => (room(), vec((-1i64..4, text(), option::of(claim())), 1..5)).prop_map(|(room, entries)| Step::Log { room, entries }),
            1 => (room(), 200i64..600).prop_map(|(room, count)| Step::LogMany { room, count }),
            1 => (room(), -9i64..4).prop_map(|(room, ahead)| Step::FenceLog { room, ahead }),
            6 => (room(), -2i64..9, 0usize..9).prop_map(|(room, back, limit)| Step::ReadLog { room, back, limit }),
            2 => (room(), 0usize..9).prop_map(|(room, limit)| Step::LastOfLog { room, limit }),
            1 => room().prop_map(Step::ForgetLog),
            2 => Just(Step::Epoch),
        ]
        .boxed(),
        5 => prop_oneof![
            5 => (room(), members()).prop_map(|(room, members)| Step::Join(room, members)),
            4 => (room(), members()).prop_map(|(room, members)| Step::Leave(room, members)),
            2 => room().prop_map(Step::Members),
            1 => room().prop_map(Step::Empty),
        ]
        .boxed(),
        6 => prop_oneof![
            4 => (any::<bool>(), 0u8..3, 1u64..4, life())
                .prop_map(|(kind, id, incarnation, life)| Step::Register { kind, id, incarnation, life }),
            1 => (any::<bool>(), 0u8..3, 1u64..4).prop_map(|(kind, id, incarnation)| Step::Deregister { kind, id, incarnation }),
            6 => (0u8..2, 0u8..3, life()).prop_map(|(name, holder, life)| Step::Acquire { name, holder, life }),
            2 => (0u8..2, 0u8..3, any::<bool>()).prop_map(|(name, holder, is_late)| Step::Release { name, holder, is_late }),
        ]
        .boxed(),
        7 => prop_oneof![
            3 => (room(), 0i64..3, 0i64..4, vec(by(), 0..5))
                .prop_map(|(room, challenger, since, gifts)| Step::PutBar { room, challenger, since, gifts }),
            3 => (room(), 0i64..4, 0i64..9, 0i64..9, by()).prop_map(|(room, since, after, seq, by)| Step::AnyGift { room, since, after, seq, by }),
            6 => (room(), 1i64..4, by(), proptest::bool::weighted(0.1))
                .prop_map(|(room, ahead, by, is_one_missed)| Step::NextGift { room, ahead, by, is_one_missed }),
            1 => (room(), 0i64..3, 0i64..4).prop_map(|(room, challenger, since)| Step::EndPk { room, challenger, since }),
            1 => room().prop_map(Step::LoseBar),
        ]
        .boxed(),
        8 => prop_oneof![
            4 => (0u8..2, 0u8..3, life()).prop_map(|(phone, code, life)| Step::KeepCode { phone, code, life }),
            5 => (0u8..2, 0u8..3).prop_map(|(phone, code)| Step::CheckCode { phone, code }),
            6 => (0i64..2, life()).prop_map(|(user, life)| Step::OpenSession { user, life }),
            2 => (0usize..20).prop_map(|back| Step::CloseSession { back }),
            1 => (0i64..2).prop_map(Step::CloseSessions),
        ]
        .boxed(),
        _ => (0..GROUPS).prop_flat_map(move |group| any_step(group, is_fat)).boxed(),
    }
}

fn any_history() -> impl Strategy<Value = Vec<Step>> {
    // From moments to weeks: everything that ends has an end within reach.
    let pass =
        || prop_oneof![6 => 0..8 * SECOND, 3 => 0..20 * MINUTE, 2 => 0..2 * HOUR, 1 => 0..13 * HOUR, 1 => 0..8 * DAY].prop_map(Step::Pass);
    let history = move |(group, is_fat)| vec(prop_oneof![3 => any_step(group, is_fat), 1 => pass()], 1..STEPS_MAX);
    (0..=GROUPS, proptest::bool::weighted(0.3)).prop_flat_map(history)
}

pub(crate) fn answers_are_those_of_the_model<S: Store>() {
    histories_of::<S, _>(GROUPS as u32 * S::HISTORIES / 2, any_history(), async |store, steps: Vec<Step>| {
        let mut pair = Pair {
            store,
            model: State::in_memory(),
            now: at(MINUTE),
            inbox_ids: Vec::new(),
            last_seq: 5,
            epochs: BTreeMap::new(),
            lists: BTreeMap::new(),
            sessions: Vec::new(),
        };
        for step in steps {
            pair.play(step).await?;
        }
        pair.compare().await
    });
}

struct Pair {
    store: State,
    model: State,
    now: u64,
    inbox_ids: Vec<String>,
    last_seq: i64,
    /// By lease, the epoch in the store and that in the model.
    epochs: BTreeMap<u8, (u64, u64)>,
    /// By room, when its member list is forgotten.
    lists: BTreeMap<i64, u64>,
    /// Those that were opened.
    sessions: Vec<SessionOwner>,
}

/// Makes a call on both, and compares.
macro_rules! same {
    ($pair:ident, $port:ident . $call:ident ( $($argument:expr),* )) => {{
        let answer = $pair.store.$port.$call($($argument),*).await.unwrap();
        prop_assert_eq!(&answer, &$pair.model.$port.$call($($argument),*).await.unwrap());
        answer
    }};
}

impl Pair {
    async fn play(&mut self, step: Step) -> Checked {
        let now = self.now;
        match step {
            Step::Pass(ms) => {
                self.now += ms;
                return self.compare().await;
            }
            Step::Issue { token, user, life } => {
                let owner =
                    TokenOwner { app: app_of(user), user: UserId(user), device: DeviceKind::from_number(u32::from(token)), session: None };
                same!(self, tokens.issue(&token.to_string(), owner, now, now + life));
            }
            Step::Revoke(token) => same!(self, tokens.revoke(&[token.to_string()])),
            Step::Touch { users, ago } => same!(self, presence.touch(&with_apps(&users), now - ago)),
            Step::Gone { users, ago } => same!(self, presence.remove(&gone(&users, now - ago))),
            Step::Online { ago } => drop(self.online(ago).await?),
            Step::Sweep { ago, limit } => self.sweep(ago, limit).await?,
            Step::Bind(routes, life) => drop(same!(self, routes.bind(&named(&routes), now, now + life))),
            Step::Renew(routes, life) => drop(same!(self, routes.renew(&named(&routes), now, now + life))),
            Step::Unbind(routes) => self.unbind(&routes).await?,
            Step::Record(acks) => {
                let acks: Vec<_> = acks.iter().map(|(user, id, due)| self.ack(*user, *id, *due)).collect();
                same!(self, acks.record(&acks));
            }
            Step::RecordMany { user, count, due } => {
                // Due in an order of their own, some at the same time.
                let acks: Vec<_> = (0..count).map(|id| self.ack(user, 100 + id, due + u64::from(id * 7 % 50))).collect();
                same!(self, acks.record(&acks));
                prop_assert!(self.store.acks.pending(app_of(user), UserId(user)).await.unwrap().len() <= ACKS_PER_USER_MAX);
            }
            Step::Remove(acks) => {
                let acked: Vec<_> = acks.iter().map(|(user, id)| (app_of(*user), UserId(*user), msg_id(*id))).collect();
                same!(self, acks.remove(&acked));
            }
            Step::Postpone { before, limit } => self.postpone(before, limit).await?,
            Step::Append { users: ids, asked, text } => {
                let asked = inbox_id(now, &asked);
                let given = same!(self, inbox.append(APP, &users(ids.iter().copied()), &asked, text.bytes(), now));
                self.inbox_ids.extend(given);
            }
            Step::AppendMany { user, count } => {
                for number in 0..count {
                    let given = same!(self, inbox.append(APP, &users([user]), &format!("{now}-0"), body(&number.to_string()), now));
                    self.inbox_ids.extend(given);
                }
            }
            Step::AppendOnce { user, asked, text, claim } => {
                let asked = inbox_id(now, &asked);
                let claim = message_claim(now, &claim);
                let once = same!(self, inbox.append_once(APP, UserId(user), &asked, text.bytes(), &claim, now));
                self.inbox_ids.push(once.id);
            }
            Step::AppendEach(appends) => {
                let append = |(user, asked, text, claim): (i64, Asked, Text, Option<AnyClaim>)| InboxAppend {
                    app: APP,
                    user: UserId(user),
                    id: inbox_id(now, &asked),
                    body: text.bytes(),
                    claim: claim.map(|claim| message_claim(now, &claim)),
                };
                let appends: Vec<_> = appends.into_iter().map(append).collect();
                let unwrapped =
                    |answers: Vec<Result<AppendedOnce, StateError>>| answers.into_iter().map(Result::unwrap).collect::<Vec<_>>();
                let given = unwrapped(self.store.inbox.append_each(&appends, now).await);
                prop_assert_eq!(&given, &unwrapped(self.model.inbox.append_each(&appends, now).await));
                self.inbox_ids.extend(given.into_iter().map(|once| once.id));
            }
            Step::Taken { user, claim } => drop(same!(self, inbox.taken(APP, UserId(user), &message_claim(now, &claim), now))),
            Step::ReadInbox { user, after, limit } => {
                let after = after.and_then(|back| self.inbox_ids.iter().rev().nth(back).cloned());
                same!(self, inbox.read(APP, UserId(user), after.as_deref(), limit, now));
            }
            Step::Ack(acks) => {
                let id = |back: usize| self.inbox_ids.iter().rev().nth(back).cloned();
                let acked: Vec<_> = acks.iter().filter_map(|(user, back)| Some((APP, UserId(*user), id(*back)?))).collect();
                same!(self, inbox.ack(&acked));
            }
            Step::Log { room, entries } => {
                let mut appends = Vec::new();
                for (ahead, text, claim) in entries {
                    let entry = self.entry(ahead, text.bytes());
                    appends.push(LogAppend { entry, claim: claim.map(|claim| message_claim(now, &claim)) });
                }
                same!(self, room_log.append(RoomId(room), &appends, now));
            }
            Step::LogMany { room, count } => {
                let appends: Vec<_> = (0..count).map(|number| LogAppend::from(self.entry(1, body(&number.to_string())))).collect();
                same!(self, room_log.append(RoomId(room), &appends, now));
            }
            Step::FenceLog { room, ahead } => drop(same!(self, room_log.fence(RoomId(room), self.last_seq + ahead, now))),
            Step::ReadLog { room, back, limit } => {
                same!(self, room_log.read(RoomId(room), self.last_seq - back, limit, now));
            }
            Step::LastOfLog { room, limit } => drop(same!(self, room_log.last(RoomId(room), limit, now))),
            // Another owner: its seqs are far above, and have a digit more, until there is no room for more.
            Step::Epoch => self.last_seq = self.last_seq.saturating_mul(12).min(LAST_SEQ),
            Step::ForgetLog(room) => same!(self, room_log.remove(RoomId(room))),
            Step::Join(room, members) => {
                let count = same!(self, members.join(APP, RoomId(room), &devices(&members), now));
                if !members.is_empty() {
                    self.list_changed(room, count);
                }
            }
            Step::Leave(room, members) => {
                let count = same!(self, members.leave(APP, RoomId(room), &devices(&members), now));
                self.list_changed(room, count);
            }
            Step::Members(room) => self.members(room).await?,
            Step::Empty(room) => {
                same!(self, members.remove(APP, RoomId(room)));
                self.lists.remove(&room);
            }
            Step::Register { kind, id, incarnation, life } => {
                same!(self, registry.register(&node(kind, id, incarnation), now, now + life));
            }
            Step::Deregister { kind, id, incarnation } => same!(self, registry.deregister(kind_of(kind), &id.to_string(), incarnation)),
            Step::Acquire { name, holder, life } => self.acquire(name, &holder.to_string(), life).await?,
            Step::Release { name, holder, is_late } => {
                let (store, model) = self.epochs.get(&name).copied().unwrap_or((1, 1));
                let late = u64::from(is_late);
                self.store.leases.release(&lease(name), &holder.to_string(), store - late).await.unwrap();
                self.model.leases.release(&lease(name), &holder.to_string(), model - late).await.unwrap();
            }
            Step::Hit(hits) => {
                let hit =
                    |(key, limit, window_ms): &(u8, u32, u64)| WindowHit { key: key.to_string(), limit: *limit, window_ms: *window_ms };
                same!(self, rate_windows.hit(&hits.iter().map(hit).collect::<Vec<_>>(), now));
            }
            Step::Claim { user, ids, life } => {
                let ids: Vec<String> = ids.iter().map(u8::to_string).collect();
                same!(self, dedup.claim(APP, UserId(user), &ids, now, now + life));
            }
            Step::GiveBack { user, id } => same!(self, dedup.release(APP, UserId(user), &[id.to_string()])),
            Step::Put { key, text, life } => same!(self, cache.put(&cached(key), text.bytes(), now, now + life)),
            Step::Forget(key) => same!(self, cache.remove(&cached(key))),
            Step::PutBar { room, challenger, since, gifts } => {
                let begun = PkBar::begin(UserId(challenger), pk_seq(room, since));
                let bar = gifts.into_iter().fold(begun, |bar, by| bar.after(bar.seq + 1, by));
                same!(self, pk_bars.put(RoomId(room), bar, now));
            }
            Step::AnyGift { room, since, after, seq, by } => {
                let [since_seq, after_seq, seq] = [since, after, seq].map(|place| pk_seq(room, place));
                same!(self, pk_bars.step(RoomId(room), PkStep { since_seq, after_seq, seq, by }, now));
            }
            // The next gift to the PK that stands. Where one before it was missed, the bar cannot know it.
            Step::NextGift { room, ahead, by, is_one_missed } => {
                if let Some(bar) = same!(self, pk_bars.bar(RoomId(room), now)) {
                    let after_seq = bar.seq + i64::from(is_one_missed);
                    let step = PkStep { since_seq: bar.since_seq, after_seq, seq: after_seq + ahead, by };
                    same!(self, pk_bars.step(RoomId(room), step, now));
                }
            }
            Step::EndPk { room, challenger, since } => self.end_pk(room, UserId(challenger), pk_seq(room, since)).await?,
            // Whatever comes next finds none, until one is put.
            Step::LoseBar(room) => {
                if let Some(bar) = same!(self, pk_bars.bar(RoomId(room), now)) {
                    self.end_pk(room, bar.challenger, bar.since_seq).await?;
                }
            }
            Step::KeepCode { phone, code, life } => {
                let ask = CodeAsk {
                    app: APP,
                    phone: phone.to_string(),
                    code: code.to_string(),
                    until_ms: now + life,
                    gap_ms: MINUTE,
                    sends_max: 3,
                    window_ms: HOUR,
                };
                same!(self, login_codes.keep(&ask, now));
            }
            Step::CheckCode { phone, code } => {
                same!(self, login_codes.check(APP, &phone.to_string(), &code.to_string(), 2, now));
            }
            Step::OpenSession { user, life } => {
                let owner = SessionOwner { app: APP, user: UserId(user) };
                same!(self, sessions.open(&session(self.sessions.len()), owner, now, now + life));
                self.sessions.push(owner);
            }
            Step::CloseSession { back } => {
                if let Some(number) = self.sessions.len().checked_sub(back + 1) {
                    same!(self, sessions.close(&session(number), self.sessions[number]));
                }
            }
            Step::CloseSessions(user) => same!(self, sessions.close_all(SessionOwner { app: APP, user: UserId(user) })),
        }
        Ok(())
    }

    /// Everything that can be seen without changing anything much.
    async fn compare(&mut self) -> Checked {
        let now = self.now;
        same!(self, tokens.resolve(&(0..4u8).map(|token| token.to_string()).collect::<Vec<_>>(), now));
        self.online(PRESENCE_KEPT_MS - 1).await?;
        let sorted = |mut found: Vec<Vec<Route>>| {
            found.iter_mut().for_each(|routes| routes.sort_by_key(|route| route.device));
            found
        };
        let found = self.store.routes.lookup(APP, &users(0..3), now).await.unwrap();
        prop_assert_eq!(sorted(found), sorted(self.model.routes.lookup(APP, &users(0..3), now).await.unwrap()));
        for user in (-3..4).chain(100..104) {
            same!(self, acks.pending(app_of(user), UserId(user)));
        }
        for user in 0..4 {
            same!(self, inbox.read(APP, UserId(user), None, usize::MAX, now));
        }
        for room in 0..3 {
            same!(self, room_log.read(RoomId(room), i64::MIN, usize::MAX, now));
            self.members(room).await?;
        }
        for kind in [NodeKind::Gateway, NodeKind::Router] {
            same!(self, registry.nodes(kind, now));
        }
        for key in 0..3 {
            same!(self, cache.get(&cached(key), now));
        }
        for room in 0..3 {
            same!(self, pk_bars.bar(RoomId(room), now));
        }
        same!(self, sessions.resolve(&(0..self.sessions.len()).map(session).collect::<Vec<_>>(), now));
        Ok(())
    }

    /// Told no time: whether there was one that had run out is the store's own affair.
    async fn end_pk(&self, room: i64, challenger: UserId, since_seq: i64) -> Checked {
        let room = RoomId(room);
        let is_live = same!(self, pk_bars.bar(room, self.now)).is_some();
        let store = self.store.pk_bars.clear(room, challenger, since_seq).await.unwrap();
        let model = self.model.pk_bars.clear(room, challenger, since_seq).await.unwrap();
        prop_assert!(store == model || !is_live, "{} and {}", store, model);
        same!(self, pk_bars.bar(room, self.now));
        Ok(())
    }

    async fn online(&self, ago: u64) -> Checked {
        let everyone = users((-3..4).chain(100..104));
        for app in [APP, OTHER_APP] {
            same!(self, presence.online(app, &everyone, self.now - ago));
        }
        Ok(())
    }

    /// A store may name those that it forgets in any order, a part of them each time: in the end they are the model's.
    async fn sweep(&self, ago: u64, limit: usize) -> Checked {
        let before = self.now - ago;
        for _ in 0..if limit == 0 { 1 } else { SWEEPS } {
            let named = self.store.presence.sweep(before, limit).await.unwrap();
            prop_assert!(named.len() <= limit);
            for (app, user) in &named {
                prop_assert_eq!(self.model.presence.online(*app, &[*user], before).await.unwrap(), [false], "{} has been seen since", user);
            }
            let named: Vec<_> = named.into_iter().map(|(app, user)| (app, user, before)).collect();
            self.model.presence.remove(&named).await.unwrap();
        }
        if limit > 0 {
            // The model may have forgotten some before.
            let left = self.model.presence.sweep(before, usize::MAX).await.unwrap();
            prop_assert_eq!(left, [], "not named");
        }
        Ok(())
    }

    /// Whether another route is left: one that has run out may count.
    async fn unbind(&self, routes: &[AnyRoute]) -> Checked {
        for route in named(routes) {
            let store = self.store.routes.unbind(std::slice::from_ref(&route)).await.unwrap();
            let model = self.model.routes.unbind(std::slice::from_ref(&route)).await.unwrap();
            let is_live = !self.model.routes.lookup(APP, &[route.user], self.now).await.unwrap()[0].is_empty();
            prop_assert_eq!((store.len(), model.len()), (1, 1));
            prop_assert!(!is_live || (store[0] && model[0]), "{:?} has a live one", route.user);
        }
        Ok(())
    }

    /// Which of those that are due a call gives is open: what the store put off, the model puts off.
    async fn postpone(&self, before: u64, limit: usize) -> Checked {
        let before = self.now.saturating_sub(MINUTE) + before;
        for _ in 0..if limit == 0 { 1 } else { SWEEPS } {
            let overdue = self.store.acks.postpone(before, self.now, limit).await.unwrap();
            prop_assert!(overdue.len() <= limit);
            for ack in overdue {
                prop_assert!(ack.due_ms < before);
                let pending = self.model.acks.pending(ack.app, ack.user).await.unwrap();
                prop_assert!(pending.contains(&ack), "{:?} is none of {:?}", ack, pending);
                match super::suite::acks::put_off(&ack, self.now) {
                    Some(again) => self.model.acks.record(&[again]).await.unwrap(),
                    None => self.model.acks.remove(&[(ack.app, ack.user, ack.msg_id)]).await.unwrap(),
                }
            }
        }
        Ok(())
    }

    fn list_changed(&mut self, room: i64, count: u64) {
        if count == 0 {
            self.lists.remove(&room);
        } else {
            self.lists.insert(room, self.now + MEMBERS_KEPT_MS);
        }
    }

    async fn members(&self, room: i64) -> Checked {
        // These calls are told no time: whether they still see a list that is over is the store's own affair.
        if self.lists.get(&room).is_some_and(|until| self.now >= *until) {
            return Ok(());
        }
        let everyone = users(0..12);
        let count = same!(self, members.count(APP, RoomId(room)));
        let contained = same!(self, members.contains(APP, RoomId(room), &everyone));
        let mut expected: Vec<UserId> = everyone.into_iter().zip(contained).filter_map(|(user, is_in)| is_in.then_some(user)).collect();
        prop_assert_eq!(expected.len() as u64, count);
        let mut met = Vec::new();
        let mut cursor = 0;
        loop {
            let page = self.store.members.page(APP, RoomId(room), cursor, 3).await.unwrap();
            met.extend(page.users);
            cursor = page.cursor;
            if cursor == 0 {
                break;
            }
        }
        met.sort_unstable();
        met.dedup();
        expected.sort_unstable();
        prop_assert_eq!(met, expected);
        Ok(())
    }

    /// Epochs begin where a store likes; they rise in both or in neither.
    async fn acquire(&mut self, name: u8, holder: &str, life: u64) -> Checked {
        let mut told = Vec::new();
        for state in [&self.store, &self.model] {
            // One way of asking is the other.
            let ask = LeaseAsk { name: lease(name), holder: holder.to_owned() };
            let asked = state.leases.acquire_many(&[ask], self.now, self.now + life).await.unwrap();
            told.push(asked.into_iter().next().flatten().unwrap());
        }
        let (store, model) = (&told[0], &told[1]);
        prop_assert_eq!((&store.holder, store.until_ms), (&model.holder, model.until_ms));
        if let Some((store_before, model_before)) = self.epochs.insert(name, (store.epoch, model.epoch)) {
            prop_assert_eq!(store.epoch.cmp(&store_before), model.epoch.cmp(&model_before));
            prop_assert_ne!(store.epoch.cmp(&store_before), Ordering::Less);
        }
        Ok(())
    }

    fn ack(&self, user: i64, id: u16, due: u64) -> PendingAck {
        PendingAck {
            app: app_of(user),
            user: UserId(user),
            msg_id: msg_id(id),
            room: id.is_multiple_of(2).then_some(RoomId(user)),
            times_sent: u32::from(id),
            due_ms: self.now + due,
        }
    }

    /// An entry `ahead` of the newest of all rooms.
    fn entry(&mut self, ahead: i64, body: Bytes) -> LogEntry {
        let seq = self.last_seq + ahead;
        self.last_seq = self.last_seq.max(seq);
        LogEntry { seq, body, except: (seq % 3 == 0).then_some(UserId(seq)) }
    }
}

impl Text {
    fn bytes(&self) -> Bytes {
        Bytes::from(vec![b'%' + self.0; self.1])
    }
}

/// A few users are of another app.
fn app_of(user: i64) -> AppId {
    if user == 3 { OTHER_APP } else { APP }
}

fn with_apps(users: &[i64]) -> Vec<(AppId, UserId)> {
    users.iter().map(|user| (app_of(*user), UserId(*user))).collect()
}

fn gone(users: &[i64], last_ms: u64) -> Vec<(AppId, UserId, u64)> {
    users.iter().map(|user| (app_of(*user), UserId(*user), last_ms)).collect()
}

fn named(routes: &[AnyRoute]) -> Vec<Route> {
    let named = |AnyRoute { user, device, session }: &AnyRoute| Route {
        app: APP,
        user: UserId(*user),
        device: DeviceKind::ALL[*device],
        node: format!("gateway%{}", session % 2),
        epoch: session % 2,
        session: *session,
    };
    routes.iter().map(named).collect()
}

fn msg_id(id: u16) -> String {
    format!("m%{id}:;")
}

fn inbox_id(now: u64, asked: &Asked) -> String {
    InboxId { ms: now - asked.ago, n: asked.n }.to_string()
}

fn message_claim(now: u64, claim: &AnyClaim) -> MessageClaim {
    MessageClaim { app: APP, user: UserId(claim.sender), msg_id: claim.msg_id.to_string(), until_ms: now + claim.life }
}

/// Names of leases and of values, as the nodes use them: to a store they may be names of one kind.
fn lease(name: u8) -> String {
    format!("room:{name}:owner")
}

fn session(number: usize) -> String {
    format!("{number:032x}")
}

fn cached(key: u8) -> String {
    format!("living_room_obj:{key}")
}

/// A place among a room's gifts: in some rooms as large as they become.
fn pk_seq(room: i64, place: i64) -> i64 {
    [0, 1 << 40, PK_SEQ_MAX - 1000][usize::try_from(room).unwrap()] + place
}

fn devices(members: &[(i64, usize)]) -> Vec<Member> {
    members.iter().map(|(user, device)| Member { user: UserId(*user), device: DeviceKind::ALL[*device] }).collect()
}

fn kind_of(is_gateway: bool) -> NodeKind {
    if is_gateway { NodeKind::Gateway } else { NodeKind::Router }
}

fn node(kind: bool, id: u8, incarnation: u64) -> NodeInfo {
    NodeInfo {
        kind: kind_of(kind),
        id: id.to_string(),
        incarnation,
        addresses: vec![("tcp".to_owned(), format!("10.0.0.{id}:8085"))],
        capacity: incarnation * 10,
        load: u64::from(id),
        draining: incarnation == 2,
        version: format!("0.{incarnation}"),
        labels: [("renewed_ms".to_owned(), incarnation.to_string())].into(),
    }
}
