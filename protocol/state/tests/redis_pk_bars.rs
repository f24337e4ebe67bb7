//! What stands in Redis of the bars of PKs: four strings, all kept as long; and what becomes of them where somebody spoilt one.
#![expect(clippy::unwrap_used, reason = "a test that fails here says so")]

use billfish_state::port::PK_BAR_KEPT_MS;
use billfish_state::redis::{Redis, RedisConfig};
use billfish_state::{PkBar, PkStep, PkStepped, PkWinner, RoomId, State, UserId};
use billfish_testing::{RedisOptions, RedisServer};
use prometheus_client::registry::Registry;
use std::time::Duration;

const NOW: u64 = 1_800_000_000_000;
const HOUR: u64 = 3_600_000;
const ROOM: RoomId = RoomId(1);
const CHALLENGER: UserId = UserId(7);
/// Challenger, value, place, winner.
const KEYS: [&str; 4] = ["im:living_online_pk:{1}", "im:living_pk_key:{1}", "im:living_pk_send_seq:{1}", "im:living_pk_is_over:{1}"];

#[tokio::test]
async fn a_bar_is_four_strings_that_are_kept_for_as_long_as_it_moves() {
    let Some(house) = House::start().await else { return };
    let head = |challenger: i64, since: i64| format!("{}%{challenger}%{since}", NOW + PK_BAR_KEPT_MS);
    house.put(begin()).await;
    assert_eq!(house.stored(), [head(7, 10).as_str(), "50", "10", ""]);
    // As a bar that has not been moved for hours.
    house.shorten();
    house.step(gift(11, 20)).await;
    assert_eq!(house.stored(), [head(7, 10).as_str(), "70", "11", ""]);
    house.is_kept(&KEYS[..3]);
    house.step(gift(12, 99)).await;
    assert_eq!(house.stored(), [head(7, 10).as_str(), "100", "12", "anchor"]);
    house.shorten();
    house.step(gift(13, -99)).await;
    assert_eq!(house.stored(), [head(7, 10).as_str(), "100", "13", "anchor"]);
    house.is_kept(&KEYS);
    // The next PK has no winner, and the one after that is put with one.
    house.put(PkBar::begin(UserId(-8), 13)).await;
    assert_eq!(house.stored(), [head(-8, 13).as_str(), "50", "13", ""]);
    house.put(PkBar::begin(UserId(-8), 14).after(15, -50)).await;
    assert_eq!(house.stored(), [head(-8, 14).as_str(), "0", "15", "challenger"]);
    house.is_kept(&KEYS);
    assert!(house.state.pk_bars.clear(ROOM, UserId(-8), 14).await.unwrap());
    assert_eq!(house.stored(), [""; 4]);
}

#[tokio::test]
async fn a_bar_of_which_a_part_is_lost_or_spoilt_is_missing_and_put_anew() {
    let Some(house) = House::start().await else { return };
    let over = begin().after(11, 50);
    for key in KEYS {
        let spoils = [
            vec![vec!["DEL", key]],
            vec![vec!["DEL", key], vec!["LPUSH", key, "x"]],
            vec![vec!["SET", key, ""]],
            vec![vec!["SET", key, "x"]],
            vec![vec!["SET", key, "-1"]],
            vec![vec!["SET", key, "1e2"]],
            vec![vec!["SET", key, "9007199254740992"]],
            vec![vec!["APPEND", key, "%1"]],
        ];
        for spoil in spoils {
            house.is_missing_after(over, &spoil).await;
        }
    }
    let of_one: [[&str; 3]; 7] = [
        ["SET", KEYS[0], "9999999999999%7"],
        ["SET", KEYS[0], "9999999999999%x%10"],
        ["SET", KEYS[0], "9999999999999%7%12"],
        ["SET", KEYS[1], "99"],
        ["SET", KEYS[1], "101"],
        ["SET", KEYS[2], "9"],
        ["SET", KEYS[3], "challenger"],
    ];
    for spoil in of_one {
        house.is_missing_after(over, &[spoil.to_vec()]).await;
    }
    house.is_missing_after(begin(), &[vec!["SET", KEYS[3], "anchor"]]).await;
    assert_eq!(house.state.watch.away(), None);
}

#[tokio::test]
async fn what_is_in_the_place_of_a_winner_is_written_anew() {
    let Some(house) = House::start().await else { return };
    house.put(begin()).await;
    house.command(&["LPUSH", KEYS[3], "x"]);
    house.put(begin().after(11, 10)).await;
    assert_eq!(house.command(&["EXISTS", KEYS[3]]), "0");
    house.command(&["LPUSH", KEYS[3], "x"]);
    house.step(gift(12, 60)).await;
    assert_eq!(house.command(&["GET", KEYS[3]]), "anchor");
    let won = PkBar { seq: 12, value: 100, winner: Some(PkWinner::Anchor), ..begin() };
    assert_eq!(house.state.pk_bars.bar(ROOM, NOW).await.unwrap(), Some(won));
}

fn begin() -> PkBar {
    PkBar::begin(CHALLENGER, 10)
}

fn gift(seq: i64, by: i64) -> PkStep {
    PkStep { since_seq: 10, after_seq: seq - 1, seq, by }
}

struct House {
    server: RedisServer,
    state: State,
    /// Kept: the adapter ends with it.
    _redis: Redis,
}

impl House {
    async fn start() -> Option<Self> {
        let server = RedisServer::start_with(RedisOptions { appendonly: false, ..RedisOptions::default() })?;
        let patience = Duration::from_secs(20);
        let config = RedisConfig {
            nodes: vec![server.address().to_string()],
            command_timeout: patience,
            connect_timeout: patience,
            ..RedisConfig::default()
        };
        let redis = Redis::start(config, &mut Registry::default()).await.unwrap();
        Some(Self { server, state: redis.state(), _redis: redis })
    }

    async fn put(&self, bar: PkBar) {
        assert_eq!(self.state.pk_bars.put(ROOM, bar, NOW).await.unwrap(), bar);
    }

    async fn step(&self, step: PkStep) {
        let stepped = self.state.pk_bars.step(ROOM, step, NOW).await.unwrap();
        assert!(matches!(stepped, PkStepped::Applied(_)), "{stepped:?}");
    }

    /// To every call, and to a put of less than what was there: nothing stands in its way.
    async fn is_missing_after(&self, bar: PkBar, spoil: &[Vec<&str>]) {
        self.command(&["DEL", KEYS[0]]);
        self.put(bar).await;
        assert_eq!(self.state.pk_bars.bar(ROOM, NOW).await.unwrap(), Some(bar));
        for command in spoil {
            self.command(command);
        }
        let bars = &self.state.pk_bars;
        assert_eq!(bars.bar(ROOM, NOW).await.unwrap(), None, "{spoil:?}");
        assert_eq!(bars.step(ROOM, gift(bar.seq + 1, 5), NOW).await.unwrap(), PkStepped::Missing, "{spoil:?}");
        assert!(!bars.clear(ROOM, CHALLENGER, 10).await.unwrap(), "{spoil:?}");
        self.put(begin()).await;
        assert_eq!(bars.bar(ROOM, NOW).await.unwrap(), Some(begin()), "{spoil:?}");
        assert_eq!(bars.step(ROOM, gift(11, 5), NOW).await.unwrap(), PkStepped::Applied(begin().after(11, 5)), "{spoil:?}");
    }

    fn stored(&self) -> [String; 4] {
        KEYS.map(|key| self.command(&["GET", key]))
    }

    fn shorten(&self) {
        for key in KEYS {
            self.command(&["PEXPIRE", key, "600000"]);
        }
    }

    /// Two hours longer than it is good for, and not for ever.
    fn is_kept(&self, keys: &[&str]) {
        for key in keys {
            let left: u64 = self.command(&["PTTL", key]).parse().unwrap();
            let until_end = PK_BAR_KEPT_MS + 2 * HOUR;
            assert!((until_end..until_end + HOUR).contains(&left), "{key} ends in {left} ms");
        }
    }

    fn command(&self, arguments: &[&str]) -> String {
        self.server.command(arguments).unwrap().trim().to_owned()
    }
}
