//! What the ledger takes: gifts a second by gifts a transaction, on an SQLite file in the target directory, every commit synced.
//!
//! 1,000 senders, 50 rooms, 50 receivers. Gifts are taken out of the outbox by a second transaction; the till does it with the next gifts, and
//! saves that commit. `BILLFISH_BENCH_LEDGER` is the `ledger.url` of an empty database to measure instead.
#![expect(clippy::unwrap_used, reason = "a bench may fail")]

use billfish_router::{
    ledger::{Ledger, LedgerConfig, Sharing},
    services::ports::{
        NewRoom, OpenOutcome, RoomKind, RoomRecords,
        money::{GiftId, GiftOutcome, Money, NewGift, OrderState, ProductId, RechargeOrder},
    },
};
use billfish_state::{AppId, RoomId, UserId};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

const APP: AppId = AppId(10_001);
const SENDERS: i64 = 1_000;
const ROOMS: i64 = 50;
const BATCHES: [i64; 3] = [1, 16, 256];
const NOW: u64 = 1_800_000_000_000;

fn gifts_per_second(criterion: &mut Criterion) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = LedgerConfig { url: std::env::var("BILLFISH_BENCH_LEDGER").unwrap_or_default(), ..LedgerConfig::default() };
    let mut shop = Shop::open(&runtime, &config, directory.path());
    let mut group = criterion.benchmark_group("ledger/gifts");
    group.sample_size(10).measurement_time(Duration::from_secs(5)).warm_up_time(Duration::from_secs(1));
    for batch in BATCHES {
        group.throughput(Throughput::Elements(batch.unsigned_abs()));
        group.bench_function(BenchmarkId::from_parameter(batch), |bencher| {
            bencher.iter_custom(|times| {
                let started = Instant::now();
                for _ in 0..times {
                    runtime.block_on(shop.pay(batch));
                }
                started.elapsed()
            });
        });
    }
    group.finish();
}

struct Shop {
    ledger: Ledger,
    rooms: Vec<RoomId>,
    /// Gifts so far.
    turn: i64,
}

impl Shop {
    fn open(runtime: &Runtime, config: &LedgerConfig, directory: &std::path::Path) -> Self {
        runtime.block_on(async {
            let ledger = Ledger::open(config, directory, Sharing::Shared).await.unwrap();
            let mut rooms = Vec::new();
            for anchor in 0..ROOMS {
                let new = NewRoom {
                    app: APP,
                    anchor: UserId(50_000 + anchor),
                    kind: RoomKind::Normal,
                    name: String::new(),
                    cover: String::new(),
                };
                let OpenOutcome::Opened(room) = ledger.open_room(&new, NOW).await.unwrap() else { panic!("the database is not empty") };
                rooms.push(room.room);
            }
            for sender in 0..SENDERS {
                let order = RechargeOrder {
                    order: sender,
                    app: APP,
                    user: UserId(sender),
                    product: ProductId(1),
                    coins: 1_000_000_000,
                    price_minor: 1,
                    currency: "CNY".to_owned(),
                    state: OrderState::Waiting,
                    made_ms: NOW,
                    payment: String::new(),
                };
                ledger.add_order(&order).await.unwrap();
                ledger.pay_order(sender, &format!("payment {sender}"), 1, "CNY", NOW).await.unwrap();
            }
            Self { ledger, rooms, turn: 0 }
        })
    }

    async fn pay(&mut self, batch: i64) {
        let gifts: Vec<NewGift> = (self.turn..self.turn + batch).map(|turn| self.gift(turn)).collect();
        self.turn += batch;
        let outcomes = self.ledger.pay_gifts(&gifts, NOW).await.unwrap();
        let paid: Vec<(RoomId, i64)> = outcomes
            .iter()
            .map(|outcome| {
                let GiftOutcome::Paid { gift, .. } = outcome else { panic!("{outcome:?}") };
                (gift.what.room, gift.gift_seq)
            })
            .collect();
        self.ledger.told(&paid).await.unwrap();
    }

    fn gift(&self, turn: i64) -> NewGift {
        // Scattered as they come: by a step that has no factor with either number.
        let room = (turn * 7 % ROOMS).unsigned_abs();
        NewGift {
            app: APP,
            sender: UserId(turn * 389 % SENDERS),
            uuid: format!("0192f0c1-7c1e-7000-8000-{turn:012}"),
            room: self.rooms[usize::try_from(room).unwrap()],
            epoch: 0,
            receiver: UserId(50_000 + i64::try_from(room).unwrap()),
            gift: GiftId(1),
            num: 1,
            price: 1,
            pk: None,
            combo: String::new(),
        }
    }
}

criterion_group!(benches, gifts_per_second);
criterion_main!(benches);
