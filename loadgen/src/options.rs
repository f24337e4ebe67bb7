//! What can be asked for on the command line.

use crate::{accounts, invariants::LedgerUrl, proc::Named, transport::Transport};
use clap::{Args, Parser, Subcommand};
use std::{
    net::{SocketAddr, ToSocketAddrs},
    ops::RangeInclusive,
    path::PathBuf,
};

/// Connection storms and fan-out load with exact accounting.
///
/// Results go to standard output, everything else to standard error. Exit code 0: fine, 1: something was lost, refused or failed, 2: wrong use.
/// Latency counts from the intended send time (CLOCK_MONOTONIC, shared by all processes of this machine).
/// The same --seed chooses the same users, the same of them for each room, and the same slow ones.
#[derive(Debug, Parser)]
#[command(name = "loadgen", after_help = EXAMPLES)]
pub(crate) struct Options {
    /// What to do.
    #[command(subcommand)]
    pub(crate) scenario: Scenario,
}

const EXAMPLES: &str = "\
Examples, with `cargo run --release` running in another terminal:
  loadgen hold --connections 1000 --seconds 60
      1,000 clients in one room, heartbeats answered, memory per connection with --server-pid
  loadgen room-burst --connections 10000 --rate 10 --seconds 30
      one room, 10 messages per second, every one of the 3 million copies accounted for
  loadgen room-burst --connections 10000 --outstanding 32 --server-pid $(pgrep -x billfish) --limit
      closed loop with 32 messages in flight, next to the bare send loop
  loadgen storm --connections 18000 --server-pid $(pgrep -x billfish) --json
      connect and login as fast as the gateway takes them
  loadgen reconnect-herd --connections 18000 --gateway 127.0.0.1:8085 --gateway 127.0.0.1:8185 --gateway 127.0.0.1:8285 --kill PID
      the first gateway dies, everyone comes back on the others
  loadgen slow-readers --connections 5000 --slow-permille 100 --slow-rate 100 --stopped-permille 20 --stop-seconds 10 \\
      --ports-file ports.json --server-pid $(pgrep -x billfish)
      500 read 100 bytes a second, 100 nothing for 10 s: what it costs the others, and where the slow ones' copies are
  loadgen room-burst --connections 1000 --rate 10 --seconds 10 --report out && loadgen check out/journal.jsonl
      keeps a journal, and does its sums again
  loadgen gift-rain --connections 2000 --rooms 20 --rate 1000 --seconds 60 --report out && \\
    loadgen check out/journal.jsonl --ledger sqlite:data/billfish.db
      1,000 gifts per second, one in a hundred sent twice; then whether each was paid once and shown to everyone once, and the sums of all money
  loadgen pk-night --connections 1000 --rooms 50 --rate 20 --seconds 60
      50 PKs, 20 gifts per second each: the bars that viewers were shown
  loadgen echo --connections 1000 --rate 10000
      heartbeats there and back
  loadgen limit --connections 9000
      what this machine can send at all: no server needed";

/// Clients of one run; users of one seed.
const CONNECTIONS_MAX: u64 = accounts::USERS_PER_SEED.unsigned_abs();
/// Rooms of one run.
const ROOMS_MAX: u64 = 100_000;
/// Messages, heartbeats or connects per second: far beyond what a machine can do, and far below what arithmetic can.
const RATE_MAX: f64 = 1e8;
/// A week.
const SECONDS_MAX: u32 = 604_800;

/// A number that was given in decimal, in a range that ends with `max`.
fn decimal(text: &str, what: &str, is_low_enough: impl Fn(f64) -> bool, max: f64) -> Result<f64, String> {
    // Also what is no number, and what is infinite.
    text.parse::<f64>().ok().filter(|&value| is_low_enough(value) && value <= max).ok_or_else(|| what.to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    decimal(text, &format!("a rate must be a number above 0, at most {RATE_MAX}"), |value| value > 0.0, RATE_MAX)
}

fn rate_or_zero(text: &str) -> Result<f64, String> {
    decimal(text, &format!("it must be 0 or a rate, a number above 0, at most {RATE_MAX}"), |value| value >= 0.0, RATE_MAX)
}

/// A time that may be a part of a second.
fn time(text: &str) -> Result<f64, String> {
    decimal(text, &format!("a time must be a number of seconds above 0, at most {SECONDS_MAX}"), |value| value > 0.0, SECONDS_MAX.into())
}

fn time_or_zero(text: &str) -> Result<f64, String> {
    decimal(text, &format!("a time must be a number of seconds, 0 to {SECONDS_MAX}"), |value| value >= 0.0, SECONDS_MAX.into())
}

fn times(text: &str) -> Result<f64, String> {
    decimal(text, "it must be a number above 0, at most 1000000", |value| value > 0.0, 1e6)
}

fn percent(text: &str) -> Result<f64, String> {
    decimal(text, "it must be a number, 0 to 100", |value| value >= 0.0, 100.0)
}

fn seconds(text: &str) -> Result<u32, String> {
    let seconds = text.parse().ok().filter(|seconds| (1..=SECONDS_MAX).contains(seconds));
    seconds.ok_or_else(|| format!("a time must be a whole number of seconds, 1 to {SECONDS_MAX}"))
}

fn count(text: &str, range: RangeInclusive<u64>) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| range.contains(count)).and_then(|count| usize::try_from(count).ok());
    count.ok_or_else(|| format!("it must be a whole number, {} to {}", range.start(), range.end()))
}

fn connections(text: &str) -> Result<usize, String> {
    count(text, 1..=CONNECTIONS_MAX)
}

fn rooms(text: &str) -> Result<usize, String> {
    count(text, 1..=ROOMS_MAX)
}

fn rooms_or_none(text: &str) -> Result<usize, String> {
    count(text, 0..=ROOMS_MAX)
}

/// An address, or a name that has one; of several an IPv4 one, for its loopback has many source addresses.
fn address(text: &str) -> Result<SocketAddr, String> {
    let addresses: Vec<SocketAddr> = text.to_socket_addrs().map_err(|error| format!("{error} (it must be HOST:PORT)"))?.collect();
    let first = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    first.copied().ok_or_else(|| "this name has no address".to_owned())
}

/// The scenarios.
#[derive(Debug, Subcommand)]
pub(crate) enum Scenario {
    /// Connects, joins, and stays for a while: memory per connection, heartbeats, nobody lost.
    Hold(Hold),
    /// Pushes to rooms and accounts for every copy.
    RoomBurst(RoomBurst),
    /// Connects and logs in as fast as the gateway takes it.
    Storm(Storm),
    /// Heartbeats there and back: the round trip through the gateway alone.
    Echo(Echo),
    /// One-to-one chat between neighbours: gateway, router, gateway.
    Unicast(Unicast),
    /// A gateway dies with everyone on it, and they come back on the others.
    ReconnectHerd(ReconnectHerd),
    /// Pushes to rooms in which some read slowly or not at all: the others must not notice, and every copy is accounted for.
    SlowReaders(SlowReaders),
    /// Gifts to the anchors of rooms, some of them sent again: each paid once, and shown to every viewer once.
    GiftRain(GiftRain),
    /// PKs whose bars are moved by gifts: no viewer sees one go back, and all end with the same.
    PkNight(PkNight),
    /// Does the sums of a run's journal again, and looks the gifts up in the ledger. 0: they agree and the run had passed; 1: not so; 2: the journal cannot be read.
    Check(Check),
    /// The bare send loop of this machine: joined frames to N sockets, no server.
    Limit(LimitOptions),
    /// A worker of another loadgen.
    #[command(hide = true)]
    Worker,
    /// The receivers of `limit`.
    #[command(hide = true)]
    LimitDrain {
        /// Where the sender listens.
        sender: SocketAddr,
        /// How many receivers.
        sockets: usize,
    },
}

/// Options of every scenario that has a server.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Gateway to connect to, HOST:PORT; may be repeated. [default: 127.0.0.1, port 8085, with ws 8086, with tls and wss 8443, with quic 8087]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) gateway: Vec<SocketAddr>,
    /// What carries the connections.
    #[arg(long, value_enum, value_name = "KIND", default_value_t)]
    pub(crate) transport: Transport,
    /// With TLS or QUIC: certificates, PEM, that the gateway's must be signed by or be one of. [default: none is checked]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// With TLS or QUIC: who comes later resumes with a ticket that who came before has fetched.
    #[arg(long)]
    pub(crate) resume_tls: bool,
    /// HTTP API of the router. [default: http://127.0.0.1:8080]
    #[arg(long, value_name = "URL")]
    pub(crate) http: Option<String>,
    /// Admin port to read the gateway's counters from (copies, drops, writes), such as http://127.0.0.1:9090; may be repeated.
    #[arg(long, value_name = "URL")]
    pub(crate) admin: Vec<String>,
    /// Takes gateway, HTTP and admin addresses from the file that `billfish --ports-file` wrote.
    #[arg(long, value_name = "FILE")]
    pub(crate) ports_file: Option<PathBuf>,
    /// Key of the HTTP API. [default: what stands in DATA_DIR/api-key]
    #[arg(long, value_name = "KEY", env = "BILLFISH_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// The server's data directory, for its api-key.
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub(crate) data_dir: PathBuf,
    /// Business line.
    #[arg(long, value_name = "ID", default_value_t = billfish_wire::limits::APP_ID_DEFAULT)]
    pub(crate) app_id: i32,
    /// Clients.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = connections, allow_negative_numbers = true)]
    pub(crate) connections: usize,
    /// Processes to spread the clients over. [default: as many as the open-files limit asks for]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) processes: Option<u16>,
    /// Server process to read CPU time and memory of; may be repeated.
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Vec<u32>,
    /// Process whose CPU time is told by itself, under NAME and with others of that name; it need not be the server's. May be repeated.
    #[arg(long, value_name = "NAME=PID")]
    pub(crate) beside: Vec<Named>,
    /// Redis node whose commands are counted, by INFO commandstats; may be repeated.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) redis: Vec<SocketAddr>,
    /// Chooses the users' ids. [default: the clock]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Clients between connect and the end of their login at any time.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) login_window: u32,
    /// Clients begun per second; 0: as fast as the window lets.
    #[arg(long, value_name = "PER_S", default_value_t = 0.0, value_parser = rate_or_zero, allow_negative_numbers = true)]
    pub(crate) connect_rate: f64,
    /// Everyone must be in within this time.
    #[arg(long, value_name = "S", default_value_t = 120, value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) connect_max: u32,
    /// After the load: when nothing has come for so long, nothing more will. A network that loses much needs more than the 5 s of a good one.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub(crate) quiet: u32,
    /// Loopback source addresses 127.0.0.2 and up to connect from. [default: one per 1,000 clients]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) sources: Option<u16>,
    /// Bodies in protobuf instead of JSON.
    #[arg(long)]
    pub(crate) protobuf: bool,
    /// Writes report.html to read, report.json and series.json to compute with, and journal.jsonl, from which `check` does the sums again,
    /// into this directory. Includes --limit, unless there is --no-limit.
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
    /// Leaves the bare send loop out of a report that is not about speed.
    #[arg(long, conflicts_with = "limit")]
    pub(crate) no_limit: bool,
    /// Measures the bare send loop with as many sockets when the run is over, and states what the server reached as a share of it.
    #[arg(long)]
    pub(crate) limit: bool,
    /// One JSON object on standard output, no live view.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `hold`
#[derive(Debug, Args)]
pub(crate) struct Hold {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Rooms to spread the clients over; 0: nobody joins.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = rooms_or_none, allow_negative_numbers = true)]
    pub(crate) rooms: usize,
    /// How long to stay.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) seconds: u32,
}

/// `room-burst`
#[derive(Debug, Args)]
pub(crate) struct RoomBurst {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Rooms to spread the clients over.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = rooms, allow_negative_numbers = true)]
    pub(crate) rooms: usize,
    /// Messages per second and room.
    #[arg(long, value_name = "PER_S", default_value_t = 10.0, conflicts_with = "outstanding", value_parser = rate, allow_negative_numbers = true)]
    pub(crate) rate: f64,
    /// Closed loop: this many messages of each room are in flight until their last member has them.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) outstanding: Option<u32>,
    /// How long to send.
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) seconds: u32,
    /// 1: every copy is acknowledged by its receiver.
    #[arg(long, value_name = "0|1", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub(crate) qos: u8,
    /// Delivery class of the messages, 0 to 3.
    #[arg(long, value_name = "CLASS", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=3))]
    pub(crate) class: u8,
    /// Bytes of each message's data.
    #[arg(long, alias = "size", value_name = "BYTES", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=32_768))]
    pub(crate) payload: u32,
    /// Threads that push through the HTTP API.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=32))]
    pub(crate) senders: u32,
}

/// `storm`
#[derive(Debug, Args)]
pub(crate) struct Storm {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Rooms to join after the login; 0: login alone.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = rooms_or_none, allow_negative_numbers = true)]
    pub(crate) rooms: usize,
}

/// `echo`
#[derive(Debug, Args)]
pub(crate) struct Echo {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Heartbeats per second over all clients; 0: a closed loop, each client sends as soon as it has the echo. Mind the gateway's limit of
    /// frames per second and session.
    #[arg(long, value_name = "PER_S", default_value_t = 0.0, value_parser = rate_or_zero, allow_negative_numbers = true)]
    pub(crate) rate: f64,
    /// How long to send.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) seconds: u32,
}

/// `unicast`
#[derive(Debug, Args)]
pub(crate) struct Unicast {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Messages per second over all clients.
    #[arg(long, value_name = "PER_S", default_value_t = 1_000.0, value_parser = rate, allow_negative_numbers = true)]
    pub(crate) rate: f64,
    /// How long to send.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) seconds: u32,
    /// Characters of each message.
    #[arg(long, alias = "size", value_name = "CHARS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) payload: u32,
}

/// `reconnect-herd`
#[derive(Debug, Args)]
pub(crate) struct ReconnectHerd {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Rooms to spread the clients over; 0: nobody joins.
    #[arg(long, value_name = "N", default_value_t = 18, value_parser = rooms_or_none, allow_negative_numbers = true)]
    pub(crate) rooms: usize,
    /// Process of the first gateway, killed once everyone is in. Without it, kill it by hand.
    #[arg(long, value_name = "PID")]
    pub(crate) kill: Option<u32>,
    /// Each client waits up to this before its first return, drawn at random.
    #[arg(long, value_name = "S", default_value_t = 20.0, value_parser = time_or_zero, allow_negative_numbers = true)]
    pub(crate) spread: f64,
    /// How long to watch after that.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) seconds: u32,
}

/// `slow-readers`
#[derive(Debug, Args)]
pub(crate) struct SlowReaders {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Rooms to spread the clients over.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = rooms, allow_negative_numbers = true)]
    pub(crate) rooms: usize,
    /// Messages per second and room.
    #[arg(long, value_name = "PER_S", default_value_t = 20.0, value_parser = rate, allow_negative_numbers = true)]
    pub(crate) rate: f64,
    /// How long to send while some are slow.
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) seconds: u32,
    /// How long to send before that, with everyone reading at once: what the others' latency is compared with.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) calm_seconds: u32,
    /// Of 1,000 clients, how many read slowly.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(0..=1_000))]
    pub(crate) slow_permille: u16,
    /// Bytes per second that each of these reads.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=262_144))]
    pub(crate) slow_rate: u32,
    /// Of 1,000 clients, how many stop reading.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(0..=1_000))]
    pub(crate) stopped_permille: u16,
    /// For how long these read and say nothing. Mind the gateway's patience with silence.
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = time_or_zero, allow_negative_numbers = true)]
    pub(crate) stop_seconds: f64,
    /// Receive buffer that slow and stopped clients ask the kernel for: the smaller, the sooner the gateway feels them.
    #[arg(long, value_name = "BYTES", default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub(crate) receive_buffer: u32,
    /// Delivery class: 0 and 1 end the connection of who is too slow, of 2 the oldest are dropped. Not 3, in whose counters the server's
    /// own counts of the audience are as well.
    #[arg(long, value_name = "CLASS", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) class: u8,
    /// Bytes of each message's data.
    #[arg(long, alias = "size", value_name = "BYTES", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=32_768))]
    pub(crate) payload: u32,
    /// Threads that push through the HTTP API.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=32))]
    pub(crate) senders: u32,
    /// The run fails when the server's memory grew by more than this while some were slow.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    pub(crate) memory_growth_max: u64,
    /// The run fails when the p99 of those who read at once became more than this many times what it was before. [default: not judged]
    #[arg(long, value_name = "TIMES", value_parser = times, allow_negative_numbers = true)]
    pub(crate) p99_growth_max: Option<f64>,
}

/// Options of the scenarios with gifts.
#[derive(Debug, Args)]
pub(crate) struct GiftOptions {
    /// Rooms to spread the clients over: each has an anchor, who receives, and at least two clients.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = rooms, allow_negative_numbers = true)]
    pub(crate) rooms: usize,
    /// How long to send.
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) seconds: u32,
    /// Clients that send, about: as many in each room. [default: one for 2 gifts per second]
    #[arg(long, value_name = "N", value_parser = connections, allow_negative_numbers = true)]
    pub(crate) senders: Option<usize>,
    /// Gifts in a hundred that are sent once more on purpose, at once or up to 2 s behind their ACK.
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, value_parser = percent, allow_negative_numbers = true)]
    pub(crate) retry_share: f64,
    /// Gifts in a hundred that are taps of combos, five 40 ms apart. The server may tell of them in one push.
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = percent, allow_negative_numbers = true)]
    pub(crate) combo_share: f64,
    /// Gifts without a final answer at any time, over all clients; later ones wait, and are late.
    #[arg(long, value_name = "N", default_value_t = 8_192, value_parser = clap::value_parser!(u32).range(8..=1_000_000))]
    pub(crate) window: u32,
    /// Only gifts that cost at most this. [default: 1000, in a PK 10: dear ones end it soon]
    #[arg(long, value_name = "COINS", value_parser = clap::value_parser!(i64).range(1..=1_000_000_000), allow_negative_numbers = true)]
    pub(crate) price_max: Option<i64>,
    /// Coins that each sender is given before the run; 0: none. With it refusals are no failure. [default: more than its gifts cost]
    #[arg(long, value_name = "COINS", value_parser = clap::value_parser!(i64).range(0..=1_000_000_000_000), allow_negative_numbers = true)]
    pub(crate) coins: Option<i64>,
    /// Who loses the connection waits up to this before it comes back, drawn at random, and sends what was not answered again.
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = time_or_zero, allow_negative_numbers = true)]
    pub(crate) spread: f64,
}

/// `gift-rain`
#[derive(Debug, Args)]
pub(crate) struct GiftRain {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) gifts: GiftOptions,
    /// Gifts per second over all rooms.
    #[arg(long, value_name = "PER_S", default_value_t = 100.0, value_parser = rate, allow_negative_numbers = true)]
    pub(crate) rate: f64,
}

/// `pk-night`
#[derive(Debug, Args)]
pub(crate) struct PkNight {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) gifts: GiftOptions,
    /// Gifts per second and room.
    #[arg(long, value_name = "PER_S", default_value_t = 20.0, value_parser = rate, allow_negative_numbers = true)]
    pub(crate) rate: f64,
}

/// `check`
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The journal that `--report DIR` wrote: DIR/journal.jsonl.
    pub(crate) journal: PathBuf,
    /// The report to compare with. [default: report.json beside the journal, where there is one]
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// The server's records, to look the invariants I1 to I7 and I12 up in: sqlite:PATH or mysql://USER:PASSWORD@HOST/DATABASE. They are read and
    /// not written; let the server come to rest before.
    #[arg(long, value_name = "URL", env = "BILLFISH_LEDGER_URL", hide_env_values = true)]
    pub(crate) ledger: Option<LedgerUrl>,
    /// With --ledger: servers died or were cut off during the run, on purpose. What they tell again is then no fault.
    #[arg(long)]
    pub(crate) faults: bool,
    /// One JSON object on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `limit`
#[derive(Debug, Args)]
pub(crate) struct LimitOptions {
    /// Receivers.
    #[arg(long, value_name = "N", default_value_t = 9_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Bytes of a frame.
    #[arg(long, alias = "size", value_name = "BYTES", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) payload: u32,
    /// How long to measure each joining, all runs together.
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = time, allow_negative_numbers = true)]
    pub(crate) seconds: f64,
    /// Runs of each joining, taken in turns; the median is stated, and the range.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) runs: u32,
    /// One JSON object on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use super::{Options, Scenario};
    use clap::{CommandFactory, Parser};

    #[test]
    fn what_no_run_could_do_is_refused_by_the_name_of_its_option() {
        let cases = [
            ("room-burst", "--rate", &["-5", "0", "nan", "inf", "-inf", "1e9", "x"][..]),
            ("room-burst", "--seconds", &["0", "-1", "604801", "1.5"]),
            ("room-burst", "--rooms", &["0", "-1", "999999999999"]),
            ("hold", "--rooms", &["-1", "999999999999"]),
            ("hold", "--seconds", &["0"]),
            ("hold", "--connections", &["0", "-1", "1000001", "4000000000000000000", "99999999999999999999"]),
            ("hold", "--connect-rate", &["-1", "nan", "inf"]),
            ("hold", "--connect-max", &["0"]),
            ("hold", "--processes", &["0", "65"]),
            ("hold", "--gateway", &["127.0.0.1", "127.0.0.1:x"]),
            ("echo", "--rate", &["-1", "nan"]),
            ("echo", "--seconds", &["0"]),
            ("unicast", "--rate", &["0", "-5", "inf"]),
            ("reconnect-herd", "--spread", &["-1", "nan"]),
            ("slow-readers", "--rate", &["0", "-5", "nan"]),
            ("slow-readers", "--stop-seconds", &["-1", "inf"]),
            ("slow-readers", "--p99-growth-max", &["nan", "0", "-1"]),
            ("gift-rain", "--rate", &["0", "-5", "nan"]),
            ("gift-rain", "--retry-share", &["-1", "100.1", "nan"]),
            ("gift-rain", "--combo-share", &["101"]),
            ("gift-rain", "--window", &["0", "7", "1000001"]),
            ("gift-rain", "--rooms", &["0"]),
            ("pk-night", "--rate", &["0", "inf"]),
            ("pk-night", "--price-max", &["0", "-1"]),
            ("pk-night", "--coins", &["-1"]),
            ("limit", "--seconds", &["0", "-1", "nan"]),
        ];
        for (scenario, option, values) in cases {
            for value in values {
                let apart = vec!["loadgen", scenario, option, value];
                let joined = format!("{option}={value}");
                for line in [apart, vec!["loadgen", scenario, &joined]] {
                    // A word that begins with a dash and is no number may be meant as an option.
                    if line.len() == 4 && *value == "-inf" {
                        continue;
                    }
                    let error = Options::try_parse_from(&line).expect_err(&line.join(" "));
                    let text = error.to_string();
                    assert!(error.exit_code() == 2 && text.contains(option) && text.contains("invalid value"), "{line:?}: {text}");
                }
            }
        }
    }

    #[test]
    fn zero_is_a_rate_where_it_says_as_fast_as_can_be() {
        for line in
            [&["echo", "--rate", "0"][..], &["hold", "--connect-rate=0"], &["reconnect-herd", "--spread", "0"], &["hold", "--rooms", "0"]]
        {
            Options::try_parse_from([&["loadgen"], line].concat()).expect("it is allowed");
        }
    }

    #[test]
    fn a_gateway_may_have_a_name() {
        let Scenario::Hold(hold) = Options::parse_from(["loadgen", "hold", "--gateway", "localhost:8085"]).scenario else { panic!("hold") };
        assert_eq!(hold.common.gateway, ["127.0.0.1:8085".parse().expect("an address")]);
    }

    #[test]
    fn the_command_line_is_consistent_and_its_help_has_examples() {
        Options::command().debug_assert();
        assert!(Options::command().render_long_help().to_string().contains("Examples"));
    }
}
