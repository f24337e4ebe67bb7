"""What scripts/bench runs: the scenarios, the figures taken from each run, and the bars they are held to."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One number of a run."""

    label: str
    unit: str
    of: Callable[[dict], float | None]
    """From loadgen's report."""
    bar: tuple[str, float] | None = None
    """`("<", 65)`: at most 65. `(">", 3.2e6)`: at least that many."""
    limit: Callable[[dict], float | None] | None = None
    """The same figure of the bare send loop in the same run."""
    ratio_bar: float | None = None
    """Least share of the limit."""


@dataclass(frozen=True)
class Scenario:
    """One command of loadgen against nodes of its own."""

    name: str
    what: str
    load: str
    """Arguments of loadgen; `{connections}` and `{seconds}` are put in."""
    figures: dict[str, Figure]
    connections: int = 10_000
    seconds: int = 10
    gateways: int = 0
    """0: everything in one process, state in memory. Otherwise so many gateways, `routers` routers and a Redis."""
    routers: int = 1
    measured: tuple[str, ...] = ()
    """Whose CPU and memory are read, of gateway, router and redis; in one process it is that."""
    is_redis_counted: bool = False
    transport: str = "tcp"
    """What carries the connections: tcp, ws, tls, wss or quic."""
    shards: int = 0
    """Of a gateway; 0: one per core."""
    is_frame_limit_lifted: bool = False
    """Without the limits of frames per session and of gifts per user, which an echo and few senders would run into."""
    database: str = "sqlite"
    """Where the ledger is: in a file, or in a MariaDB of the run's own (mariadb)."""
    asks_for_more: bool = False
    """Than can be: what is not sent for that is not lost."""
    is_long: bool = False
    """Only with BENCH_LONG=1, or when it is named."""


def field(*path: str) -> Callable[[dict], float | None]:
    """A number somewhere in a report; None where it was not measured."""

    def read(report: dict) -> float | None:
        for key in path:
            report = (report or {}).get(key)
        return report

    return read


def inverse_us(read: Callable[[dict], float | None]) -> Callable[[dict], float | None]:
    """Microseconds each, of so many a second."""
    return lambda report: 1e6 / read(report) if read(report) else None


def cpu_us_per(count: Callable[[dict], float | None]) -> Callable[[dict], float | None]:
    """Microseconds of CPU during the load for each of so many."""

    def each(report: dict) -> float | None:
        cpu_s, number = report.get("server_cpu_s"), count(report)
        return cpu_s * 1e6 / number if cpu_s is not None and number else None

    return each


def connection_seconds(report: dict) -> float:
    return report["connections"] * report["detail"]["seconds"]


DELIVERED = field("deliveries_per_server_cpu_s")
# Of the bare send loop, at the joining that was seen in the run.
LIMIT = field("detail", "limit_deliveries_per_cpu_s")
P50, P99 = field("latency_ms", "p50"), field("latency_ms", "p99")
SENT = field("sent")
CORES = cpu_us_per(lambda report: report["detail"]["seconds"] * 1e6)
LOGIN_US = inverse_us(field("logins_per_server_cpu_s"))


def deliveries(bar: float | None = None, ratio_bar: float | None = None) -> dict[str, Figure]:
    least = (">", bar) if bar else None
    return {"delivered": Figure("deliveries per server CPU-s", "/s", DELIVERED, least, LIMIT, ratio_bar)}


def one_at_a_time(name: str, connections: int, ratio_bar: float | None = None) -> Scenario:
    what = f"one write per delivery, {connections:,} members"
    return Scenario(name, what, "room-burst --outstanding 1 --limit", deliveries(ratio_bar=ratio_bar), connections)


def joined(name: str, what: str, bar: float | None, ratio_bar: float | None = None, arguments: str = "", **others) -> Scenario:
    return Scenario(name, what, f"room-burst --outstanding 32 --senders 8 --limit{arguments}", deliveries(bar, ratio_bar), **others)


def with_rate(scenario: Scenario) -> Scenario:
    """And how many deliveries there are in a second, the load generator and the server on the same cores."""
    rate = {"rate": Figure("deliveries per second", "/s", field("deliveries_per_s"))}
    return dataclasses.replace(scenario, figures=scenario.figures | rate)


def logins(name: str, what: str, connections: int, bar: float | None = None, arguments: str = "", has_parts=False, **others) -> Scenario:
    figures = {"login_us": Figure("CPU of {measured} per login", "µs", LOGIN_US, ("<", bar) if bar else None)}
    if bar:
        figures["all_in_s"] = Figure("until all are in", "s", field("detail", "connect_s"), ("<", 2))
    if has_parts:
        figures |= parts({"router": "the router", "redis": "Redis"}, "connect", field("connections"), "login")
    load = f"storm --login-window 512 --connect-max 240{arguments}"
    return Scenario(name, what, load, figures, connections, seconds=0, measured=("gateway",), **others)


def of_kind(kind: str, phase: str, count: Callable[[dict], float | None]) -> Callable[[dict], float | None]:
    """Microseconds of CPU of one kind of node for each of so many; `phase` is `connect` or `load`."""

    def each(report: dict) -> float | None:
        cpu_s, number = field("detail", "beside", kind, f"{phase}_cpu_s")(report), count(report)
        return cpu_s * 1e6 / number if cpu_s is not None and number else None

    return each


def parts(kinds: dict[str, str], phase: str, count: Callable[[dict], float | None], what: str) -> dict[str, Figure]:
    """What each kind of node has of it: units for docs/sizing.md."""
    return {f"{kind}_us": Figure(f"CPU of {words} per {what}", "µs", of_kind(kind, phase, count)) for kind, words in kinds.items()}


# From performance.md: bytes of user memory per idle connection, µs of CPU per connect and login.
TRANSPORTS = {"ws": ("WebSocket", 320, 30), "tls": ("TLS", 4_096, 90), "wss": ("WebSocket over TLS", 4_096, 98), "quic": ("QUIC", 32_768, 165)}


def idle_memory(name: str, what: str, bar: float, **others) -> Scenario:
    figures = {"bytes": Figure("user memory of the gateway per connection", "B", field("bytes_per_connection"), ("<", bar))}
    # What the storm left behind is given back within twenty.
    return Scenario(name, what, "hold", figures, 18_000, seconds=30, gateways=1, measured=("gateway",), **others)


def transport_logins(name: str, transport: str, what: str, bar: float, arguments: str = "") -> Scenario:
    figures = {
        "login_us": Figure("CPU of {measured} per login", "µs", LOGIN_US, ("<", bar)),
        "resumed": Figure("handshakes that a ticket shortened", "", resumed_share),
    }
    if not arguments:
        del figures["resumed"]
    # As `login-18000`, so that the two differ in the transport alone. A ticket is there for who comes when somebody else is in: the window is
    # what has none.
    load = f"storm --login-window 512 --connect-max 240{arguments}"
    return Scenario(name, what, load, figures, 18_000, seconds=0, gateways=1, measured=("gateway",), transport=transport)


def resumed_share(report: dict) -> float | None:
    full, resumed = (report["detail"].get(key, 0) for key in ("tls_full", "tls_resumed"))
    return resumed / (full + resumed) if full + resumed else None


ACK_P50, ACK_P99 = field("detail", "gifts", "ack_ms", "p50"), field("detail", "gifts", "ack_ms", "p99")


def gifts(database: str, words: str, most: int) -> list[Scenario]:
    """As many as there is time for, half of what the bar asks for, and a calm evening."""

    def rain(name: str, what: str, rate: int, figures: dict[str, Figure]) -> Scenario:
        # Three viewers in each of 100 rooms, all of whom give: it is the way of a gift that is measured, and a copy has scenarios of its own.
        load = f"gift-rain --rooms 100 --senders 300 --window 2048 --retry-share 0 --rate {rate}"
        more = {"is_frame_limit_lifted": True, "database": database, "asks_for_more": name == "most"}
        return Scenario(f"gifts-{database}-{name}", what, load, figures, 300, **more)

    rate = {"paid": Figure("gifts per second", "/s", field("detail", "gifts", "acked_per_s"), (">", most))}
    cost = {"cpu_us": Figure("CPU of the server per gift", "µs", inverse_us(field("detail", "gifts", "acked_per_server_cpu_s")))}
    acks = lambda bar: {"ack_p50_ms": Figure("p50 until the ACK", "ms", ACK_P50), "ack_p99_ms": Figure("p99 until the ACK", "ms", ACK_P99, ("<", bar))}
    return [
        rain("most", f"gifts on {words}, paid, acknowledged and pushed, more than can be", most + most // 3, rate | cost),
        rain("half", f"the same, {most // 2:,} a second", most // 2, acks(25) | cost),
        rain("1000", "the same, 1,000 a second", 1_000, acks(5) | cost),
    ]


ONE = one_at_a_time("one-10000", 10_000, ratio_bar=0.90)
STORM = logins("login-18000", "connect + login, token in Redis, 18,000 at once", 18_000, bar=19, gateways=1, has_parts=True)
JOIN = logins("login-join-18000", "the same, and a JOIN", 18_000, arguments=" --rooms 18", gateways=1, has_parts=True)
UNICAST = Scenario(
    "unicast-10000",
    "one-to-one chat, 10,000 messages/s, gateway → router → gateway",
    "unicast --rate 10000",
    {
        "p99_ms": Figure("p99", "ms", P99, ("<", 0.5)),
        "cores": Figure("cores of both", "", CORES, ("<", 0.35)),
        **parts({"gateway": "the gateway", "router": "the router", "redis": "Redis"}, "load", SENT, "message"),
    },
    # Each user may say five in three seconds.
    12_000,
    gateways=1,
    measured=("gateway", "router"),
)
ROOMS = Scenario(
    "router-room",
    "a message to a room through the HTTP API, 1,000/s to 20 rooms of 50",
    "room-burst --rooms 20 --rate 50",
    parts({"router": "the router", "redis": "Redis"}, "load", SENT, "message"),
    1_000,
    gateways=1,
    measured=("router",),
)

SCENARIOS = [
    ONE,
    joined("joined-10000", "32 outstanding, 10,000 members, in order", 3.2e6, 0.88),
    joined("joined-qos1-10000", "the same, QoS 1, every copy acknowledged", 2.0e6, arguments=" --qos 1"),
    Scenario(
        "room-10-per-s",
        "room of 10,000, 10 messages/s",
        "room-burst --rate 10",
        {"p50_ms": Figure("p50", "ms", P50), "p99_ms": Figure("p99", "ms", P99, ("<", 65))},
    ),
    Scenario(
        "room-50-per-s",
        "room of 10,000, 50 messages/s",
        "room-burst --rate 50",
        {"p50_ms": Figure("p50", "ms", P50, ("<", 60)), "p99_ms": Figure("p99", "ms", P99, ("<", 145))},
    ),
    idle_memory("idle-memory", "idle over plain TCP, logged in, in a room", 256),
    *(
        idle_memory(f"idle-memory-{transport}", f"idle over {words}, logged in, in a room", bar, transport=transport)
        for transport, (words, bar, _) in TRANSPORTS.items()
    ),
    Scenario(
        "idle-cpu",
        "idle, a heartbeat each 30 s, presence in Redis",
        "hold",
        {"cpu_us": Figure("CPU of gateway and router per connection and second", "µs", cpu_us_per(connection_seconds), ("<", 0.7))},
        18_000,
        seconds=120,
        gateways=1,
        measured=("gateway", "router"),
    ),
    STORM,
    *(
        transport_logins(f"login-{transport}", transport, f"connect + login over {words}" + (", full handshakes" if transport != "ws" else ""), bar)
        for transport, (words, _, bar) in TRANSPORTS.items()
    ),
    transport_logins("login-tls-resumed", "tls", "connect + login over TLS, resumed by a ticket", 80, " --resume-tls"),
    JOIN,
    UNICAST,
    Scenario(
        "redis-copies",
        "3 rooms of 1,000, 10 messages/s each, 3 gateways and 2 routers",
        "room-burst --rooms 3 --rate 10",
        {"commands": Figure("Redis commands per copy", "", field("detail", "redis", "per_delivery"), ("<", 0.02))},
        3_000,
        seconds=30,
        gateways=3,
        routers=2,
        measured=("gateway",),
        is_redis_counted=True,
    ),
    Scenario(
        "hold-100000",
        "100,000 connections over 6 gateways, 10 minutes of heartbeats",
        "hold --processes 6 --rooms 100 --login-window 512 --connect-max 240",
        {
            "lost": Figure("lost, failed, dropped or unanswered", "", lambda report: lost(report), ("<", 0)),
            "cpu_us": Figure("CPU of the gateways per connection and second", "µs", cpu_us_per(connection_seconds)),
            "bytes": Figure("user memory of the gateways per connection", "B", field("bytes_per_connection")),
            "commands": Figure("Redis commands per heartbeat", "", field("detail", "redis", "per_delivery"), ("<", 0.02)),
        },
        100_000,
        seconds=600,
        gateways=6,
        routers=2,
        measured=("gateway",),
        is_redis_counted=True,
        is_long=True,
    ),
    *(one_at_a_time(f"one-{members}", members) for members in (1_000, 6_000, 12_000, 18_000)),
    # So few cost a gateway milliseconds. What a thread has used since the scheduler's last tick is not seen, which is at most one each.
    logins("login-6x-1000", "connect + login, 1,000 over 6 gateways", 1_000, gateways=6, routers=2),
    logins("login-6x-3000", "connect + login, 3,000 over 6 gateways", 3_000, gateways=6, routers=2),
    logins("login-6x-10000", "connect + login, 10,000 over 6 gateways", 10_000, gateways=6, routers=2),
    logins("login-6x-30000", "connect + login, 30,000 over 6 gateways", 30_000, gateways=6, routers=2, arguments=" --processes 6"),
    logins(
        "login-6x-100000",
        "connect + login, 100,000 over 6 gateways",
        100_000,
        gateways=6,
        routers=2,
        arguments=" --processes 6",
        is_long=True,
    ),
    with_rate(joined("shards-1", "32 outstanding, 10,000 members, 1 shard", None, shards=1)),
    with_rate(joined("shards-2", "32 outstanding, 10,000 members, 2 shards", None, shards=2)),
    Scenario(
        "echo-1000",
        "heartbeats there and back, 1,000 connections, closed loop",
        "echo",
        {"echoes": Figure("echoes per server CPU-s", "/s", DELIVERED), "p99_ms": Figure("p99", "ms", P99)},
        1_000,
        is_frame_limit_lifted=True,
    ),
    *gifts("sqlite", "SQLite", 15_000),
    *gifts("mariadb", "MariaDB", 10_000),
    Scenario(
        "pk-night",
        "a PK room of 1,000 viewers, 200 gifts/s",
        "pk-night --rate 200",
        {
            "ack_p99_ms": Figure("p99 until the ACK", "ms", ACK_P99),
            "p99_ms": Figure("p99 until a viewer has it", "ms", P99),
            "apart": Figure("viewers with another bar at the end", "", field("detail", "gifts", "bars", "apart"), ("<", 0)),
        },
        1_000,
    ),
    ROOMS,
    dataclasses.replace(ROOMS, name="router-room-6x", what="the same, 6 gateways", gateways=6),
]


def lost(report: dict, asks_for_more: bool = False) -> float:
    """Everything that a run is to have none of. A dropped copy is accounted for, and yet what delivers less costs less."""
    detail = report["detail"]
    doubled = 0 if detail["at_least_once"] else report["duplicates"]
    counts = [report["missing"], report["logins_failed"], report["order_breaks"], doubled, detail["strays"]]
    if not asks_for_more:
        counts.append(detail["unsent"])
    return sum([*counts, *report["dropped"].values(), *detail["lost"].values()])


@dataclass(frozen=True)
class Growth:
    """A cost that is to stay the same while something grows."""

    what: str
    unit: str
    steps: list[tuple[str, str, str]]
    """Label, scenario, figure."""
    as_cost: Callable[[float], float]
    bar_percent: float | None


GROWTHS = [
    Growth(
        "CPU per delivery, one write each, by members",
        "µs",
        [(f"{members:,}", f"one-{members}", "delivered") for members in (1_000, 6_000, 12_000, 18_000)],
        lambda per_s: 1e6 / per_s,
        10,
    ),
    Growth(
        "the same of the bare send loop",
        "µs",
        [(f"{members:,}", f"one-{members}", "delivered.limit") for members in (1_000, 6_000, 12_000, 18_000)],
        lambda per_s: 1e6 / per_s,
        None,
    ),
    Growth(
        "CPU of the gateways per login, by sessions over 6 gateways",
        "µs",
        [(f"{sessions:,}", f"login-6x-{sessions}", "login_us") for sessions in (1_000, 3_000, 10_000, 30_000, 100_000)],
        lambda us: us,
        10,
    ),
    Growth(
        "CPU per delivery, 32 outstanding, by shards of one gateway",
        "µs",
        [(f"{shards}", f"shards-{shards}", "delivered") for shards in (1, 2)],
        lambda per_s: 1e6 / per_s,
        None,
    ),
]


@dataclass(frozen=True)
class Added:
    """What a transport adds to plain TCP: one figure of two scenarios that differ in nothing else."""

    what: str
    unit: str
    scenario: str
    plain: str
    figure: str
    rate: str = ""
    """What one core does in a second of that which is added, when it does nothing else; empty: nothing is done."""


ADDED = [
    *(
        Added(f"{words}, idle", "B", f"idle-memory-{transport}", "idle-memory", "bytes")
        for transport, (words, _, _) in TRANSPORTS.items()
    ),
    Added("WebSocket, a login", "µs", "login-ws", "login-18000", "login_us", "upgrades"),
    Added("TLS, a login", "µs", "login-tls", "login-18000", "login_us", "full handshakes"),
    Added("TLS, a login resumed by a ticket", "µs", "login-tls-resumed", "login-18000", "login_us", "resumed handshakes"),
    Added("WebSocket over TLS, a login", "µs", "login-wss", "login-18000", "login_us", "full handshakes and upgrades"),
]


@dataclass(frozen=True)
class Unit:
    """A cost that docs/sizing.md reckons with."""

    letter: str
    """In its formulas; empty where it has none."""
    what: str
    unit: str
    scenario: str
    figure: str
    as_cost: Callable[[float], float] = lambda value: value


UNITS = [
    Unit("S", "a send: one copy alone, 10,000 members", "µs of the gateway", "one-10000", "delivered", lambda per_s: 1e6 / per_s),
    Unit("", "a copy, 32 outstanding", "µs of the gateway", "joined-10000", "delivered", lambda per_s: 1e6 / per_s),
    Unit("", "a copy that is acknowledged, 32 outstanding", "µs of the gateway", "joined-qos1-10000", "delivered", lambda per_s: 1e6 / per_s),
    Unit("M", "a connection", "B of the gateway", "idle-memory", "bytes"),
    Unit("", "a connection over WebSocket", "B of the gateway", "idle-memory-ws", "bytes"),
    Unit("", "a connection over TLS", "B of the gateway", "idle-memory-tls", "bytes"),
    Unit("", "a connection over WebSocket over TLS", "B of the gateway", "idle-memory-wss", "bytes"),
    Unit("I", "a connection, each second", "µs of gateway and router", "idle-cpu", "cpu_us"),
    Unit("L", "a login", "µs of the gateway", "login-18000", "login_us"),
    Unit("", "a login over WebSocket", "µs of the gateway", "login-ws", "login_us"),
    Unit("", "a login over TLS, a full handshake", "µs of the gateway", "login-tls", "login_us"),
    Unit("", "a login over TLS, resumed", "µs of the gateway", "login-tls-resumed", "login_us"),
    Unit("", "a login over WebSocket over TLS", "µs of the gateway", "login-wss", "login_us"),
    Unit("", "a login", "µs of the router", "login-18000", "router_us"),
    Unit("", "a login", "µs of Redis", "login-18000", "redis_us"),
    Unit("", "a connection over QUIC", "B of the gateway", "idle-memory-quic", "bytes"),
    Unit("", "a connect and login over QUIC, full handshake", "µs of the gateway", "login-quic", "login_us"),
    Unit("", "a login and a join", "µs of the gateway", "login-join-18000", "login_us"),
    Unit("", "a login and a join", "µs of the router", "login-join-18000", "router_us"),
    Unit("", "a login and a join", "µs of Redis", "login-join-18000", "redis_us"),
    Unit("R + E", "a message to a room, to 1 gateway", "µs of the router", "router-room", "router_us"),
    Unit("R + 6 E", "a message to a room, to 6 gateways", "µs of the router", "router-room-6x", "router_us"),
    Unit("", "a message to a room", "µs of Redis", "router-room", "redis_us"),
    Unit("", "a message to a user", "µs of the gateway, both ways", "unicast-10000", "gateway_us"),
    Unit("", "a message to a user", "µs of the router", "unicast-10000", "router_us"),
    Unit("", "a message to a user", "µs of Redis", "unicast-10000", "redis_us"),
    Unit("", "a copy, rooms of 1,000", "Redis commands", "redis-copies", "commands"),
    Unit("", "a heartbeat, 100,000 connections", "Redis commands", "hold-100000", "commands"),
]
