"""From loadgen's reports to the tables of docs/benchmarks.md and docs/sizing.md.

docs/benchmarks.json keeps the figures of every scenario's last measurement. The tables are made of it and of nothing else, so that measuring one
scenario again changes its rows alone. What stands outside of the markers is written by hand, and is left alone.
"""

import json
import pathlib
import platform
import re
import statistics
import subprocess

from bench_scenarios import ADDED, GROWTHS, SCENARIOS, UNITS, Figure, Scenario, lost

ROOT = pathlib.Path(__file__).resolve().parent.parent
WRITTEN = ["docs/benchmarks.json", "docs/benchmarks.md", "docs/sizing.md"]
KEPT, PAGE, SIZING = (ROOT / path for path in WRITTEN)
HEAD = "| what | figure | median | range | limit in the same run | ratio | bar | |\n|---|---|---|---|---|---|---|---|"


def measured():
    """The last measurement of each scenario, by name."""
    return json.loads(KEPT.read_text()) if KEPT.exists() else {}


def keep(name, outcome):
    """Puts a measurement in place of the one before, and writes the pages anew."""
    kept = measured() | {name: outcome}
    KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    write_pages(kept)


def write_pages(kept):
    for page, tables in [(PAGE, benchmark_tables(kept)), (SIZING, unit_table(kept))]:
        page.write_text(replaced(page.read_text(), tables))


def replaced(page, tables):
    """A page with other tables between its markers."""
    begin, end = "<!-- measured: written by scripts/bench -->\n", "<!-- measured: end -->"
    before, marker, rest = page.partition(begin)
    _, last, after = rest.partition(end)
    if not marker or not last:
        raise ValueError(f"a page needs {begin.strip()} and {end}")
    return f"{before}{begin}\n{tables}\n\n{end}{after}"


def figures(scenario: Scenario, report):
    """What is kept of a report."""
    kept = {"lost": lost(report, scenario.asks_for_more)}
    for key, figure in scenario.figures.items():
        kept[key] = figure.of(report)
        if figure.limit:
            kept[f"{key}.limit"] = figure.limit(report)
    return {key: rounded(value) for key, value in kept.items()}


def rounded(value):
    """Five digits are more than any of it is worth."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def benchmark_tables(kept):
    """All that docs/benchmarks.md has between its markers."""
    has_bar = lambda scenario: any(figure.bar or figure.ratio_bar for figure in scenario.figures.values())
    return "\n\n".join(
        [
            machines(kept),
            table([scenario for scenario in SCENARIOS if has_bar(scenario)], kept),
            "**Growth.** Medians; the spread is that of the dearest and the cheapest around their middle.",
            growth_table(kept),
            "**What a transport adds** to plain TCP: the medians of two scenarios that differ in nothing else. Its bar is the one less the other. "
            "The rate is what one core does of it in a second, doing nothing else: a handshake with the sealing of LOGIN and its answer, without the login itself.",
            added_table(kept),
            "**Without a bar**: the steps of that growth, and units for [sizing.md](sizing.md).",
            table([scenario for scenario in SCENARIOS if not has_bar(scenario)], kept),
            "**Commands.** `scripts/bench NAME` runs one. CPU (the processes' own clocks, in nanoseconds) and memory (`/proc`) are those of the nodes named; the nodes are new for every run.",
            command_table(kept),
        ]
    )


def table(scenarios, kept):
    return "\n".join([HEAD, *(row for scenario in scenarios for row in rows(scenario, kept.get(scenario.name)))])


def machines(kept):
    """Where it was measured: a line for each machine."""
    lines = []
    for machine in sorted({outcome["machine"] for outcome in kept.values()}):
        names = [f"`{name}`" for name, outcome in sorted(kept.items()) if outcome["machine"] == machine]
        scenarios = "" if len(names) == len(kept) else f" ({', '.join(names)})"
        lines.append(f"**Machine.** {machine}{scenarios}")
    return "\n\n".join(lines) or "Not measured yet."


def rows(scenario: Scenario, outcome):
    """A line for each figure of a scenario."""
    return [row(scenario, key, figure, outcome, first=index == 0) for index, (key, figure) in enumerate(scenario.figures.items())]


def row(scenario: Scenario, key, figure: Figure, outcome, first):
    what = f"{scenario.what} (`{scenario.name}`)" if first else ""
    label = figure.label.replace("{measured}", "the gateways" if scenario.gateways > 1 else "the gateway")
    values = values_of(outcome, key)
    if not values:
        return f"| {what} | {label} | not measured | | | | {bar_text(figure)} | |"
    limits = values_of(outcome, f"{key}.limit")
    ratios = [value / limit for value, limit in zip(values, limits)]
    ratio = statistics.median(ratios) if ratios else None
    cells = [
        what,
        label,
        f"**{number(statistics.median(values))}** {figure.unit}".strip(),
        f"{number(min(values))} – {number(max(values))}, {len(values)} run{'s' if len(values) > 1 else ''}",
        f"{number(statistics.median(limits))} ({number(min(limits))} – {number(max(limits))})" if limits else "",
        f"{ratio:.2f}" if ratio is not None else "",
        bar_text(figure),
        verdict(figure, statistics.median(values), ratio, [run["lost"] for run in outcome["runs"]]),
    ]
    return f"| {' | '.join(cells)} |"


def values_of(outcome, key):
    return [run[key] for run in outcome["runs"] if run.get(key) is not None] if outcome else []


def bar_text(figure: Figure):
    bars = []
    if figure.bar:
        sign, bar = figure.bar
        bars.append(f"{'≤' if sign == '<' else '≥'} {number(bar)} {figure.unit}".strip())
    if figure.ratio_bar:
        bars.append(f"≥ {figure.ratio_bar:.2f} of the limit")
    return ", ".join(bars)


def verdict(figure: Figure, median, ratio, lost_by_run):
    """Met or missed, and by how much; a run that lost something misses every bar."""
    said = []
    if any(lost_by_run):
        said.append(f"**missed**: {sum(count > 0 for count in lost_by_run)} of {len(lost_by_run)} runs lost or dropped something, {number(max(lost_by_run))} at most")
    misses = []
    if figure.bar:
        sign, bar = figure.bar
        misses.append(excess_percent(median, bar) if sign == "<" else shortfall_percent(median, bar))
    if figure.ratio_bar:
        misses.append(shortfall_percent(ratio, figure.ratio_bar) if ratio is not None else None)
    for miss in misses:
        if miss is None:
            said.append("no limit measured")
        else:
            said.append(miss_text(miss))
    return "; ".join(dict.fromkeys(said))


def miss_text(percent):
    if percent <= 0:
        return "met"
    if percent < 1:
        return "**missed** by less than 1 %"
    return f"**missed** by {percent:.0f} %" if percent < 100 else f"**missed** {number(1 + percent / 100)} times over"


def excess_percent(value, at_most):
    if value <= at_most:
        return 0
    return (value / at_most - 1) * 100 if at_most else 100


def shortfall_percent(value, at_least):
    return max(0, (1 - value / at_least) * 100)


def growth_table(kept):
    lines = ["| what | | spread | bar | |", "|---|---|---|---|---|"]
    for growth in GROWTHS:
        costs = []
        for label, scenario, key in growth.steps:
            values = values_of(kept.get(scenario), key)
            costs.append((label, growth.as_cost(statistics.median(values)) if values else None))
        steps = " · ".join(f"{label}: {number(cost) if cost is not None else 'not measured'}" for label, cost in costs)
        known = [cost for _, cost in costs if cost is not None]
        spread = (max(known) - min(known)) / (max(known) + min(known)) * 100 if len(known) > 1 else None
        bar = f"± {growth.bar_percent} %" if growth.bar_percent else ""
        said = ""
        if spread is not None and growth.bar_percent:
            said = "met" if spread <= growth.bar_percent else "**missed**"
            said += "" if len(known) == len(costs) else ", as far as measured"
        lines.append(f"| {growth.what}, {growth.unit} | {steps} | {f'± {spread:.0f} %' if spread is not None else ''} | {bar} | {said} |")
    return "\n".join(lines)


def added_table(kept):
    by_name = {scenario.name: scenario for scenario in SCENARIOS}
    lines = ["| what | plain TCP | with it | adds | bar | | per CPU-s |", "|---|---|---|---|---|---|---|"]
    for added in ADDED:
        plain, whole = (values_of(kept.get(name), added.figure) for name in (added.plain, added.scenario))
        bars = [by_name[name].figures[added.figure].bar[1] for name in (added.plain, added.scenario)]
        bar = f"≤ {number(bars[1] - bars[0])} {added.unit}"
        if not plain or not whole:
            lines.append(f"| {added.what} | | | not measured | {bar} | | |")
            continue
        plain, whole = statistics.median(plain), statistics.median(whole)
        more = whole - plain
        rate = f"{number(1e6 / more)} {added.rate}" if added.rate and more > 0 else ""
        said = miss_text(excess_percent(more, bars[1] - bars[0]))
        lines.append(f"| {added.what} | {number(plain)} {added.unit} | {number(whole)} {added.unit} | **{number(more)}** {added.unit} | {bar} | {said} | {rate} |")
    return "\n".join(lines)


def command_table(kept):
    lines = ["| name | nodes | loadgen | commit, day, load before |", "|---|---|---|---|"]
    for scenario in SCENARIOS:
        outcome = kept.get(scenario.name)
        when = f"`{outcome['commit']}`, {outcome['date']}, {outcome['load_before']}" if outcome else "not measured"
        name = f"`{scenario.name}`" + (", with BENCH_LONG=1" if scenario.is_long else "")
        lines.append(f"| {name} | {nodes(scenario)} | `{outcome['command'] if outcome else command(scenario)}` | {when} |")
    return "\n".join(lines)


def command(scenario: Scenario):
    """As a person would type it, but for where the nodes are."""
    seconds = f" --seconds {scenario.seconds}" if scenario.seconds else ""
    transport = f" --transport {scenario.transport}" if scenario.transport != "tcp" else ""
    return f"{scenario.load}{transport} --connections {scenario.connections}{seconds}"


def nodes(scenario: Scenario):
    if not scenario.gateways:
        shards = f", {scenario.shards} shard{'s' if scenario.shards > 1 else ''}" if scenario.shards else ""
        database = ", MariaDB" if scenario.database == "mariadb" else ""
        return "one process" + database + shards + (", no limits per session and user" if scenario.is_frame_limit_lifted else "")
    count = lambda number, kind: f"{number} {kind}{'s' if number > 1 else ''}"
    return f"{count(scenario.gateways, 'gateway')}, {count(scenario.routers, 'router')}, Redis; CPU of {' and '.join(scenario.measured)}"


def unit_table(kept):
    """All that docs/sizing.md has between its markers."""
    lines = ["| | what | measured last | of | scenario |", "|---|---|---|---|---|"]
    for unit in UNITS:
        values = values_of(kept.get(unit.scenario), unit.figure)
        cost = number(unit.as_cost(statistics.median(values))) if values else "not measured"
        lines.append(f"| {unit.letter} | {unit.what} | {cost} | {unit.unit} | `{unit.scenario}` |")
    return "\n".join(lines)


def number(value):
    """For people: three digits, thousands as k, millions as M."""
    for size, letter in [(1e6, " M"), (1e4, " k")]:
        if abs(value) >= size:
            value, letter = value / (1e6 if letter == " M" else 1e3), letter
            break
    else:
        letter = ""
    digits = max(0, 2 - (len(str(int(abs(value)))) - 1)) if abs(value) >= 1 else 4
    return (f"{value:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:,.0f}") + letter


def machine():
    """This one, in a sentence."""
    cpus = re.findall(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    is_virtual = " hypervisor " in pathlib.Path("/proc/cpuinfo").read_text()
    memory_kib = int(re.search(r"MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text())[1])
    kernel = platform.uname()
    rustc = subprocess.run(["rustc", "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
    processors = f"{len(cpus)} {'virtual ' if is_virtual else ''}processors ({cpus[0] if cpus else platform.machine()})"
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    return f"{processors}, {memory_kib / 2**20:.0f} GiB, {system}, {kernel.system} {kernel.release}, Rust {rustc}; clients on the same machine, loopback"
