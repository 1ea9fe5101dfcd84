"""Plots a measurement: throughput and latency over requests in flight and over the rate.

It needs matplotlib and is imported only for --plot.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from cli.bench.load_levels import BULK, MODES
from cli.bench.report.environment import describe_machine
from cli.bench.session import BenchSession
from cli.bench.statistics import LoadSummary

COLOURS: Final = dict(zip(MODES, ("#1f6fb2", "#c4601d", "#2f8f4e"), strict=True))
MARKERS: Final = dict(zip(MODES, "os^", strict=True))
MUTED_COLOUR: Final = "#777777"
PANEL_INCHES: Final = (5.6, 3.4)


def draw(session: BenchSession, file: Path) -> None:
    """Write the plot to a file. Raises OSError."""
    rows = session.rows()
    loops = ([row for row in rows if (row.rate is None) is is_closed] for is_closed in (True, False))
    sides = [side for side in loops if side]
    size = (max(7.5, PANEL_INCHES[0] * len(sides)), 2 * PANEL_INCHES[1] + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(2, len(sides), squeeze=False, sharex="col")
    if len(sides) > 1:  # latencies are comparable; the throughput of an open loop is its rate
        panels[1][1].sharey(panels[1][0])
    for (above, below), side in zip(panels.T, sides, strict=True):
        _throughput(above, side, session)
        _latency(below, side, session)
        for axes in (above, below):
            _format_axes(axes, _load_values(side))
        is_closed = side[0].rate is None
        below.set_xlabel("requests in flight (closed loop)" if is_closed else "jobs due per second (open loop)")
    panels[0][0].set_ylabel("answers per second")
    panels[1][0].set_ylabel("latency, ms")
    figure.suptitle(_title(session), fontsize=11)
    figure.savefig(file, dpi=150, facecolor="white")


def _throughput(axes: Axes, side: Sequence[LoadSummary], session: BenchSession) -> None:
    for mode, rows in _by_mode(side):
        rates = [row.throughput for row in rows]
        below = [row.throughput - row.throughput_range[0] for row in rows]
        above = [row.throughput_range[1] - row.throughput for row in rows]
        style: dict[str, Any] = {"color": COLOURS[mode], "marker": MARKERS[mode], "markersize": 5, "capsize": 3}
        axes.errorbar(_load_values(rows), rates, yerr=[below, above], label=_mode_label(mode, session), **style)
    raw = session.raw()
    if raw is not None and side[0].rate is None:
        axes.axhline(raw.serial_limit, color=MUTED_COLOUR, linestyle="--", linewidth=1)
        text, transform = "decode + run on one thread, no service", axes.get_yaxis_transform()
        style = {"va": "center", "color": MUTED_COLOUR, "fontsize": 8}
        style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.text(0.02, raw.serial_limit, text, transform=transform, **style)
    if side[0].rate is not None:
        due = sorted(set(_load_values(side)))
        axes.plot(due, due, color=MUTED_COLOUR, linestyle="--", linewidth=1, label="jobs due")


def _latency(axes: Axes, side: Sequence[LoadSummary], session: BenchSession) -> None:
    for mode, rows in _by_mode(side):
        known = [row for row in rows if row.p99_ms is not None]
        p99s, p50s = [row.p99_ms or 0.0 for row in known], [row.p50_ms or 0.0 for row in known]
        colour, name = COLOURS[mode], _mode_label(mode, session)
        axes.plot(_load_values(known), p99s, color=colour, marker=MARKERS[mode], markersize=5, label=f"{name}: p99")
        axes.plot(_load_values(known), p50s, color=colour, linestyle=":", label=f"{name}: p50")
    axes.set_yscale("log")


def _format_axes(axes: Axes, loads: Sequence[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(set(loads)))
    axes.xaxis.set_minor_locator(NullLocator())
    if axes.get_yscale() == "log":
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, framealpha=0.9, edgecolor="none")


def _by_mode(side: Sequence[LoadSummary]) -> list[tuple[str, list[LoadSummary]]]:
    """Group rows by mode, sorted by load."""
    groups = {mode: [row for row in side if row.mode == mode] for mode in MODES}
    return [(mode, sorted(rows, key=_load_value)) for mode, rows in groups.items() if rows]


def _mode_label(mode: str, session: BenchSession) -> str:
    return f"bulk of {session.plan.bulk_size}" if mode == BULK else mode


def _load_value(row: LoadSummary) -> float:
    return row.load.concurrency if row.rate is None else row.rate


def _load_values(rows: Sequence[LoadSummary]) -> list[float]:
    return [_load_value(row) for row in rows]


def _title(session: BenchSession) -> str:
    card, machine = session.target.card, describe_machine()
    model = f"jitney bench: {card['name']} version {card['version']} on {card['provider']}"
    where = f"{machine['cpus']} CPUs, {machine['system']}, jitney {machine['versions'].get('jitney', '')}"
    rounds = f"medians of {session.plan.rounds} rounds" if session.plan.rounds > 1 else "1 round"
    interrupted = "" if session.is_complete else " (interrupted)"
    return f"{model}{interrupted}\n{where}; {rounds} of {session.plan.seconds:g} s"
