//! One worker: a slice of the crowd in its own event loop, in a thread of this process or in a process of its own.
//!
//! ```text
//!  parent --Plan, Order--> worker          Prepared, Settled, Progress, Interval, Done, Report  --News--> parent
//! ```
//!
//! - The same loop runs either way. A process is the same executable with the hidden command `worker`: plan and orders come as lines of JSON
//!   on standard input, news go as lines to standard output. The API key therefore never stands in an argument list.
//! - A worker always ends: every phase has a deadline, and a closed input is an order to stop.

use crate::{
    accounts::{self, Renewals},
    clock,
    crowd::{
        Crowd,
        gifting::{GiftTally, GiftWork},
        herd::HerdTally,
        slow::{Pace, PaceLatencies, Slow},
    },
    http::Api,
    interrupt::Interrupt,
    latency::Latencies,
    scenario::spawn_named,
    series::Interval,
    tally::{MessageTally, Totals},
    transport::{TlsPlan, Transport},
};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError},
    thread::{self, JoinHandle},
    time::Duration,
};

/// How long a worker that is ready waits for the others before it gives up.
const ORDER_WAIT: Duration = Duration::from_secs(300);
/// Between two progress reports.
const PROGRESS_EVERY_NS: u64 = 250_000_000;
/// Workers cut their intervals at the same instants, as they share the clock.
const SECOND_NS: u64 = 1_000_000_000;
/// After the last message was sent, copies may come for so long; a QoS-1 copy is resent after 4 s and again after 8 s.
const DRAIN_MAX_NS: u64 = 20_000_000_000;

/// Everything a worker needs to know; nothing in it changes during the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Gateways; client `i` goes to `i` modulo their number.
    pub(crate) gateways: Vec<SocketAddr>,
    /// What carries the connections.
    pub(crate) transport: Transport,
    /// How TLS is spoken, where it is.
    pub(crate) tls: TlsPlan,
    /// HTTP API.
    pub(crate) http: String,
    /// Its key.
    pub(crate) api_key: String,
    /// Business line.
    pub(crate) app_id: i32,
    /// User of client 0 of the whole run.
    pub(crate) first_user_id: i64,
    /// The worker's first client, counted over the whole run.
    pub(crate) first: usize,
    /// How many clients it has.
    pub(crate) clients: usize,
    /// Rooms; client `i` joins `i` modulo their number. Empty: nobody joins.
    pub(crate) rooms: Vec<i64>,
    /// Frames with protobuf bodies instead of JSON.
    pub(crate) protobuf: bool,
    /// Loopback source addresses to spread the connections over.
    pub(crate) sources: usize,
    /// Connections between `connect` and the end of their login at any time.
    pub(crate) login_window: usize,
    /// Connections begun per second; 0: as fast as the window lets.
    pub(crate) connect_rate: f64,
    /// A login that takes longer has failed.
    pub(crate) login_timeout: Duration,
    /// The whole crowd must be in by then.
    pub(crate) connect_max: Duration,
    /// When nothing has come for so long after the load, nothing more will.
    pub(crate) quiet: Duration,
    /// Clients that are cut come back, spread over this; `None`: they are lost.
    pub(crate) return_spread: Option<Duration>,
    /// Some of the clients read slowly.
    pub(crate) slow: Option<Slow>,
    /// What the clients do once they are in.
    pub(crate) activity: Activity,
    /// With [`Activity::Gifts`].
    #[serde(default)]
    pub(crate) gifts: Option<GiftWork>,
}

impl Plan {
    /// The user of a client of this worker.
    pub(crate) fn user_id(&self, index: usize) -> i64 {
        self.first_user_id + i64::try_from(self.first + index).expect("the crowd is small")
    }

    /// How it reads.
    pub(crate) fn pace_of(&self, index: usize) -> Pace {
        self.slow.map_or(Pace::Prompt, |slow| slow.pace_of(self.user_id(index)))
    }
}

/// What the clients do between [`Order::Begin`] and [`Order::Finish`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Activity {
    /// Receive, and send the heartbeats the gateway asks for.
    Listen,
    /// Heartbeats as load: `per_s` over all clients of this worker, or, at 0, the next as soon as the echo is there.
    Echo {
        /// Heartbeats per second of this worker.
        per_s: f64,
    },
    /// One-to-one chat between neighbours.
    Chat {
        /// Messages per second of this worker.
        per_s: f64,
        /// Characters of text.
        text_chars: usize,
    },
    /// Some send gifts, all watch.
    Gifts,
}

/// What the parent tells a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Connect, log in, join.
    Connect,
    /// The activity begins.
    Begin,
    /// It is over; wait for what is still on its way and report. For each room: messages the server accepted.
    Finish {
        /// One per room of the plan.
        accepted: Vec<u32>,
    },
}

/// What a worker tells the parent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum News {
    /// Tokens are there.
    Prepared,
    /// Everyone is in, or has failed.
    Settled(Box<Settled>),
    /// For the live view.
    Progress {
        /// Logged in and joined.
        settled: usize,
        /// Copies, echoes or messages received.
        received: u64,
    },
    /// A second of the run is over.
    Interval(Box<Interval>),
    /// (room, message) pairs that all of this worker's members of the room have.
    Done(Vec<(usize, u32)>),
    /// The end.
    Report(Box<WorkerReport>),
    /// The end, too early.
    Failed(String),
}

/// How the crowd got in.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Settled {
    /// Logged in and, where there are rooms, joined; who was lost since then is among them.
    pub(crate) settled: usize,
    /// Logins that failed, by cause.
    pub(crate) failures: BTreeMap<String, u64>,
    /// Refusals that named a time to come back, and were followed by another try, by cause.
    pub(crate) retries: BTreeMap<String, u64>,
    /// Members by room of the plan.
    pub(crate) members: Vec<u32>,
    /// From the intended connect to the answer of LOGIN.
    pub(crate) login: Latencies,
    /// TLS handshakes, those that a ticket shortened, by it.
    pub(crate) tls_full: u64,
    /// See `tls_full`.
    pub(crate) tls_resumed: u64,
}

/// A connection that ended, or a login that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    /// The client, counted over the whole run.
    pub(crate) client: usize,
    /// Why.
    pub(crate) cause: String,
    /// When, on the clock of the run.
    pub(crate) at_ns: u64,
    /// First copies it had by then.
    pub(crate) received: u64,
    /// How it read.
    pub(crate) pace: Pace,
}

/// Endings that a worker tells one by one; beyond it they are counted. As many as clients of the largest worker.
pub(crate) const ENDS_MAX: usize = 20_000;

/// What became of those of a room's members that were lost while they had it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RoomEnds {
    /// How many.
    pub(crate) members: u32,
    /// First copies they had.
    pub(crate) received: u64,
}

/// What was not as it should be with the messages of one client of a one-to-one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Odd {
    /// Sent by it and refused by the server.
    pub(crate) refused: u32,
    /// Received by it again.
    pub(crate) twice: u32,
    /// Received by it behind something later.
    pub(crate) overtaken: u32,
}

/// What one client of a one-to-one run sent and got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Talk {
    /// The client, counted over the whole run.
    pub(crate) client: usize,
    /// Messages it sent; their numbers are 0, 1, 2 …
    pub(crate) sent: u32,
    /// What was not as it should be.
    #[serde(flatten)]
    pub(crate) odd: Odd,
    /// First copies of its partner's messages that it got.
    pub(crate) received: u64,
    /// Which of the partner's it did not get, refused ones among them; the first few.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) holes: Vec<(u32, u32)>,
}

/// What a worker saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct WorkerReport {
    /// Messages or heartbeats that this worker itself sent and the server did not refuse.
    pub(crate) sent: u64,
    /// Frames the server refused, by reason.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Due by the pacer while its client was not connected.
    pub(crate) unsent: u64,
    /// Connections that ended during the run, by cause.
    pub(crate) lost: BTreeMap<String, u64>,
    /// Of those that read slowly: not lost, but given up by the gateway, by cause.
    pub(crate) given_up: BTreeMap<String, u64>,
    /// Of the latter, those that ended in a reset.
    pub(crate) resets: u64,
    /// The same one by one, connections that were cut and came back among them; the first [`ENDS_MAX`].
    pub(crate) ends: Vec<End>,
    /// Those beyond.
    pub(crate) ends_omitted: u64,
    /// Logins that failed, one by one; the first [`ENDS_MAX`].
    pub(crate) failed: Vec<End>,
    /// Those beyond.
    pub(crate) failed_omitted: u64,
    /// By room of the plan.
    pub(crate) room_ends: Vec<RoomEnds>,
    /// One-to-one runs: by client.
    pub(crate) talks: Vec<Talk>,
    /// Runs with gifts.
    pub(crate) gifts: Option<Box<GiftTally>>,
    /// Clients that read slowly, and that stopped.
    pub(crate) slow_clients: u64,
    /// See `slow_clients`.
    pub(crate) stopped_clients: u64,
    /// Where some do: latencies by pace.
    pub(crate) by_pace: Option<PaceLatencies>,
    /// Copies.
    pub(crate) totals: Totals,
    /// Over QUIC: datagrams that the clients sent and took for lost.
    pub(crate) quic_lost: u64,
    /// From the intended send to the arrival of a copy or an echo.
    pub(crate) latency: Latencies,
    /// Echoes of the heartbeats that keep sessions alive.
    pub(crate) beats_echoed: u64,
    /// Their latency.
    pub(crate) beat_latency: Latencies,
    /// By room and message.
    pub(crate) messages: Vec<Vec<MessageTally>>,
    /// Arrival of the last first copy.
    pub(crate) last_copy_ns: u64,
    /// Bytes of one load frame.
    pub(crate) frame_bytes: usize,
    /// Those who came back.
    pub(crate) herd: Option<HerdTally>,
}

impl WorkerReport {
    /// Adds another worker's report.
    pub(crate) fn merge(&mut self, other: Self) {
        self.sent += other.sent;
        self.unsent += other.unsent;
        let by_cause = [(&mut self.refused, other.refused), (&mut self.lost, other.lost), (&mut self.given_up, other.given_up)];
        for (sum, more) in by_cause {
            for (cause, count) in more {
                *sum.entry(cause).or_default() += count;
            }
        }
        self.resets += other.resets;
        self.ends.extend(other.ends);
        self.ends_omitted += other.ends_omitted;
        self.failed.extend(other.failed);
        self.failed_omitted += other.failed_omitted;
        self.room_ends.resize_with(self.room_ends.len().max(other.room_ends.len()), RoomEnds::default);
        for (room, more) in self.room_ends.iter_mut().zip(other.room_ends) {
            room.members += more.members;
            room.received += more.received;
        }
        self.talks.extend(other.talks);
        if let Some(gifts) = other.gifts {
            self.gifts.get_or_insert_default().merge(*gifts);
        }
        self.slow_clients += other.slow_clients;
        self.stopped_clients += other.stopped_clients;
        if let Some(by_pace) = other.by_pace {
            self.by_pace.get_or_insert_default().merge(&by_pace);
        }
        self.totals.merge(&other.totals);
        self.quic_lost += other.quic_lost;
        self.latency.merge(&other.latency);
        self.beats_echoed += other.beats_echoed;
        self.beat_latency.merge(&other.beat_latency);
        self.messages.resize_with(self.messages.len().max(other.messages.len()), Vec::new);
        for (room, messages) in self.messages.iter_mut().zip(other.messages) {
            room.resize_with(room.len().max(messages.len()), MessageTally::default);
            for (message, more) in room.iter_mut().zip(messages) {
                message.merge(&more);
            }
        }
        self.last_copy_ns = self.last_copy_ns.max(other.last_copy_ns);
        self.frame_bytes = self.frame_bytes.max(other.frame_bytes);
        if let Some(herd) = other.herd {
            self.herd.get_or_insert_default().merge(herd);
        }
    }
}

/// Runs one worker to its end.
///
/// # Errors
/// When the API gives no tokens, the crowd cannot be opened, or the parent is gone.
pub(crate) fn run(plan: &Plan, orders: &Receiver<Order>, tell: &mut dyn FnMut(News)) -> Result<()> {
    let api = Api::new(&plan.http, &plan.api_key);
    let user_id = plan.first_user_id + i64::try_from(plan.first).context("too many clients")?;
    // No order can come before the news that they are there.
    let mut goes_on = || {
        ensure!(is_parent_there(orders), "the parent is gone");
        Ok(())
    };
    let tokens = accounts::issue_tokens(&api, plan.app_id, user_id, plan.clients, &mut goes_on)?;
    // Who comes back may need another one.
    let mut renewals = plan.gifts.as_ref().map(|_| Renewals::start(api, plan.app_id, user_id)).transpose()?;
    tell(News::Prepared);
    let Order::Connect = wait_order(orders)? else { bail!("the crowd is not connected yet") };

    let mut crowd = Crowd::new(plan, tokens)?;
    let mut progress = Progress::begin();
    crowd.begin_connecting();
    while !crowd.connect_turn()? {
        progress.report(&mut crowd, tell);
        ensure!(is_parent_there(orders), "the parent is gone");
    }
    tell(News::Settled(Box::new(crowd.settled())));

    let accepted = loop {
        match orders.try_recv() {
            Ok(Order::Begin) => crowd.begin_activity(),
            Ok(Order::Finish { accepted }) => break accepted,
            Ok(Order::Connect) => bail!("the crowd is connected already"),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => bail!("the parent is gone"),
        }
        crowd.turn()?;
        renew(&mut crowd, renewals.as_mut());
        tell_done(&mut crowd, tell);
        progress.report(&mut crowd, tell);
    };

    crowd.end_activity(&accepted);
    let began_ns = clock::now_ns();
    while crowd.awaits_more() {
        let now_ns = clock::now_ns();
        let quiet_since_ns = crowd.last_arrival_ns().max(began_ns);
        let is_quiet = Duration::from_nanos(now_ns.saturating_sub(quiet_since_ns)) > plan.quiet && !crowd.has_business();
        if now_ns - began_ns > DRAIN_MAX_NS || is_quiet {
            break;
        }
        crowd.turn()?;
        renew(&mut crowd, renewals.as_mut());
        tell_done(&mut crowd, tell);
        progress.report(&mut crowd, tell);
        ensure!(is_parent_there(orders), "the parent is gone");
    }
    progress.close(&mut crowd, tell);
    tell(News::Report(Box::new(crowd.report())));
    crowd.leave();
    Ok(())
}

/// New tokens for those whose old ones are not known any more.
fn renew(crowd: &mut Crowd<'_>, renewals: Option<&mut Renewals>) {
    let refused = crowd.take_refused_tokens();
    let Some(renewals) = renewals else { return };
    refused.into_iter().for_each(|index| renewals.ask(index));
    while let Some((index, token)) = renewals.next() {
        crowd.renew_token(index, token);
    }
}

fn tell_done(crowd: &mut Crowd<'_>, tell: &mut dyn FnMut(News)) {
    let done = crowd.take_done();
    if !done.is_empty() {
        tell(News::Done(done));
    }
}

/// For times when no order can come.
fn is_parent_there(orders: &Receiver<Order>) -> bool {
    !matches!(orders.try_recv(), Err(TryRecvError::Disconnected))
}

fn wait_order(orders: &Receiver<Order>) -> Result<Order> {
    match orders.recv_timeout(ORDER_WAIT) {
        Ok(order) => Ok(order),
        Err(RecvTimeoutError::Timeout) => bail!("no order within {ORDER_WAIT:?}"),
        Err(RecvTimeoutError::Disconnected) => bail!("the parent is gone"),
    }
}

/// What the parent is told while the crowd is at work.
struct Progress {
    last_ns: u64,
    /// The second whose interval is open.
    second: u64,
}

impl Progress {
    fn begin() -> Self {
        Self { last_ns: 0, second: clock::now_ns() / SECOND_NS }
    }

    /// Every turn ends here, so a copy is booked on the second in which its turn began.
    fn report(&mut self, crowd: &mut Crowd<'_>, tell: &mut dyn FnMut(News)) {
        let now_ns = clock::now_ns();
        if now_ns / SECOND_NS != self.second {
            self.close(crowd, tell);
            self.second = now_ns / SECOND_NS;
        }
        if now_ns.saturating_sub(self.last_ns) >= PROGRESS_EVERY_NS {
            self.last_ns = now_ns;
            tell(News::Progress { settled: crowd.settled_now(), received: crowd.received_now() });
        }
    }

    fn close(&self, crowd: &mut Crowd<'_>, tell: &mut dyn FnMut(News)) {
        tell(News::Interval(Box::new(crowd.close_interval(self.second))));
    }
}

/// The parent's hold on one worker. Dropping it ends the worker.
#[derive(Debug)]
pub(crate) struct Worker {
    orders: Option<Sender<Order>>,
    running: Running,
}

#[derive(Debug)]
enum Running {
    Thread(Option<JoinHandle<()>>),
    Process { child: Child, pumps: Vec<JoinHandle<()>> },
}

impl Worker {
    /// A worker in a thread of this process. `tell` hears its news.
    ///
    /// # Errors
    /// When there is no thread.
    pub(crate) fn in_thread(plan: Plan, mut tell: impl FnMut(News) + Send + 'static) -> Result<Self> {
        let (orders, receiver) = mpsc::channel();
        let thread = spawn_named("worker", move || {
            if let Err(error) = run(&plan, &receiver, &mut tell) {
                tell(News::Failed(format!("{error:#}")));
            }
        })?;
        Ok(Self { orders: Some(orders), running: Running::Thread(Some(thread)) })
    }

    /// A worker in a process of its own.
    ///
    /// # Errors
    /// When this executable cannot be started again.
    pub(crate) fn in_process(plan: &Plan, mut tell: impl FnMut(News) + Send + 'static) -> Result<Self> {
        let executable = std::env::current_exe().context("this executable has no path to start it again from")?;
        let child = Command::new(executable)
            .arg("worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("a worker process could not be started")?;
        let (orders, receiver) = mpsc::channel::<Order>();
        // From here on dropping it ends the process, whatever fails.
        let mut worker = Self { orders: Some(orders), running: Running::Process { child, pumps: Vec::new() } };
        let Running::Process { child, pumps } = &mut worker.running else { unreachable!("it was just made") };
        let mut input = child.stdin.take().expect("standard input was asked for");
        let output = child.stdout.take().expect("standard output was asked for");
        write_line(&mut input, plan).context("the worker process ended before it had its plan")?;
        pumps.push(spawn_named("orders", move || {
            // A worker that is gone says so through its closed output.
            while let Ok(order) = receiver.recv() {
                if write_line(&mut input, &order).is_err() {
                    break;
                }
            }
        })?);
        pumps.push(spawn_named("news", move || {
            let mut has_reported = false;
            for line in BufReader::new(output).lines() {
                match line.map_err(anyhow::Error::from).and_then(|line| Ok(serde_json::from_str(&line)?)) {
                    Ok(news) => {
                        has_reported |= matches!(news, News::Report(_) | News::Failed(_));
                        tell(news);
                    }
                    Err(error) => tell(News::Failed(format!("the worker process spoke nonsense: {error:#}"))),
                }
            }
            if !has_reported {
                tell(News::Failed("a worker process ended before its report".to_owned()));
            }
        })?);
        Ok(worker)
    }

    /// Its process, where it has one of its own.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.running {
            Running::Thread(_) => None,
            Running::Process { child, .. } => Some(child.id()),
        }
    }

    /// Gives an order; a worker that is gone has said so in its news.
    pub(crate) fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            orders.send(order).ok();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Without orders to come the worker ends, and a process sees its input close.
        self.orders = None;
        match &mut self.running {
            Running::Thread(thread) => {
                if let Some(thread) = thread.take() {
                    thread.join().ok();
                }
            }
            Running::Process { child, pumps } => {
                child.kill().ok();
                child.wait().ok();
                for pump in pumps.drain(..) {
                    pump.join().ok();
                }
            }
        }
    }
}

/// The hidden command `worker`: the child's side of [`Worker::in_process`].
///
/// # Errors
/// As [`run`]; the parent is told as well.
pub(crate) fn serve() -> Result<()> {
    // A terminal tells the workers too, and the parent needs their reports: it says when to end.
    let _held = Interrupt::hold()?;
    let mut lines = BufReader::new(io::stdin()).lines();
    let plan = lines.next().context("no plan on standard input; this command is for loadgen itself")??;
    let plan: Plan = serde_json::from_str(&plan).context("the plan on standard input is not one; this command is for loadgen itself")?;
    let (sender, orders) = mpsc::channel();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let Ok(order) = serde_json::from_str(&line) else { break };
            if sender.send(order).is_err() {
                break;
            }
        }
    });
    let mut output = io::stdout().lock();
    // A parent that is gone is noticed through the closed input.
    let outcome = run(&plan, &orders, &mut |news| {
        write_line(&mut output, &news).ok();
    });
    if let Err(error) = outcome {
        write_line(&mut output, &News::Failed(format!("{error:#}"))).ok();
    }
    Ok(())
}

fn write_line(to: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::from)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::WorkerReport;
    use crate::tally::MessageTally;
    use std::collections::BTreeMap;

    #[test]
    fn reports_of_two_workers_add_up_per_message() {
        let message = |received, last_ns| MessageTally { received, intended_ns: 10, last_ns, ..MessageTally::default() };
        let mut left = WorkerReport {
            sent: 1,
            messages: vec![vec![message(3, 100), message(2, 90)]],
            lost: BTreeMap::from([("reset".to_owned(), 1)]),
            ..WorkerReport::default()
        };
        let right = WorkerReport {
            sent: 2,
            messages: vec![vec![message(4, 80)], vec![message(1, 5)]],
            lost: BTreeMap::from([("reset".to_owned(), 2)]),
            ..WorkerReport::default()
        };
        left.merge(right);
        assert_eq!(left.sent, 3);
        assert_eq!(left.messages, [vec![message(7, 100), message(2, 90)], vec![message(1, 5)]]);
        assert_eq!(left.lost, BTreeMap::from([("reset".to_owned(), 3)]));
    }
}
