"""Shows a measurement: one JSON document, or a table and how it was made. Measures nothing."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from cli.bench.report.environment import describe_machine, describe_method, list_warnings
from cli.bench.session import BenchSession
from cli.bench.statistics import LoadSummary


def build_document(session: BenchSession) -> dict[str, Any]:
    """JSON-able; the field names say the unit."""
    raw = session.raw()
    target, plan, inputs = session.target, session.plan, session.inputs
    return {
        "complete": session.is_complete,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "url": str(target.address),
        "model": {key: target.card[key] for key in ("name", "version", "task", "provider", "max_batch", "inputs")},
        "inputs": {
            "kind": inputs.kind,
            "count": len(inputs.bodies),
            "mean_bytes": round(sum(map(len, inputs.bodies)) / len(inputs.bodies)),
            "origin": inputs.origin,
        },
        "plan": {
            "mode": [*plan.modes],
            "concurrency": [*plan.concurrencies],
            "rate": [*plan.rates],
            "bulk_size": plan.bulk_size,
            "connections": plan.connections,
            "seconds": plan.seconds,
            "rounds": plan.rounds,
        },
        "machine": describe_machine(),
        "raw": None if raw is None else asdict(raw),
        "no_raw": session.no_raw,
        "no_cpu": session.cpu.unknown,
        "service": [asdict(one) for one in session.rows()],
        "first_problem": session.first_problem(),
        "warnings": list_warnings(session),
        "method": describe_method(session),
    }


def format_report(session: BenchSession) -> str:
    """For people."""
    found = build_document(session)
    model, inputs = found["model"], found["inputs"]
    lines = [
        f"model {model['name']} version {model['version']} ({model['provider']}, max batch {model['max_batch']})",
        f"at {found['url']}; {inputs['count']} inputs, mean {inputs['mean_bytes']} bytes: {inputs['origin']}",
        "",
        *(line for part in _service_tables(session.rows()) for line in (*part, "")),
        *_raw_table(session),
        "",
        *(f"WARNING: {line}" for line in found["warnings"]),
        *([f"first problem: {found['first_problem']}"] if found["first_problem"] else []),
        "how it was measured",
        *(f"- {line}" for line in found["method"]),
        *([] if session.is_complete else ["", "broken off: only what was measured until then"]),
    ]
    return "\n".join(lines)


def _service_tables(rows: Sequence[LoadSummary]) -> list[list[str]]:
    """The tables that there is something for."""
    closed, opened = ([one for one in rows if (one.rate is None) is is_closed] for is_closed in (True, False))
    tables = [_closed_loop_table(closed)] if closed else []
    tables += [_open_loop_table(opened)] if opened else []
    tables.append(["where the time of a job goes, mean ms", *_stage_table(rows)])
    if any(one.cpu_us for one in rows):
        tables.append(["CPU time of the service, us a job", *_cpu_table(rows)])
    return tables


def _closed_loop_table(rows: Sequence[LoadSummary]) -> list[str]:
    head = ["mode", "in flight", "answers/s", "range", "p50 ms", "p90 ms", "p99 ms", "mean batch"]
    head += ["/ raw best", "/ serial limit", "refused", "failures", "gen cpu"]
    lines = [
        [
            *_rates(one),
            *("-" if ratio is None else f"{ratio:.3f}" for ratio in (one.ratio_raw_best, one.ratio_serial_limit)),
            *_failure_text(one),
        ]
        for one in rows
    ]
    if any(one.accepted_rate is not None for one in rows):
        head.insert(4, "accepted/s")
        for one, line in zip(rows, lines, strict=True):
            line.insert(4, format_number(one.accepted_rate))
    return format_table(head, lines)


def _open_loop_table(rows: Sequence[LoadSummary]) -> list[str]:
    head = ["mode", "jobs due", "answers/s", "range", "p50 ms", "p90 ms", "p99 ms", "mean batch"]
    head += ["overdue", "unsent", "refused", "failures", "gen cpu"]
    return format_table(head, [[*_rates(one), str(one.overdue), str(one.unsent), *_failure_text(one)] for one in rows])


def _rates(one: LoadSummary) -> list[str]:
    spread = "-".join(format_number(rate) for rate in one.throughput_range)
    figures = (one.p50_ms, one.p90_ms, one.p99_ms, one.mean_batch)
    return [one.mode, one.load.size, format_number(one.throughput), spread, *map(format_number, figures)]


def _failure_text(one: LoadSummary) -> list[str]:
    return [str(sum(one.refused.values())), str(sum(one.failures.values())), f"{one.generator_cpu:.2f}"]


def _stage_table(rows: Sequence[LoadSummary]) -> list[str]:
    return _by_name(rows, [one.stages_ms for one in rows])


def _cpu_table(rows: Sequence[LoadSummary]) -> list[str]:
    return _by_name(rows, [one.cpu_us for one in rows])


def _by_name(rows: Sequence[LoadSummary], figures: Sequence[dict[str, float]]) -> list[str]:
    names = next((list(one) for one in figures if one), [])
    lines = [
        [one.mode, one.load.size, *(format_number(of.get(name)) for name in names)]
        for one, of in zip(rows, figures, strict=True)
    ]
    return format_table(["mode", "load", *names], lines)


def _raw_table(session: BenchSession) -> list[str]:
    raw = session.raw()
    if raw is None:
        return ["raw ONNX Runtime: not measured"]
    lines = [
        [f"run, batch {size}", format_number(rate), format_number(1000 * size / rate)]
        for size, rate in raw.rates.items()
    ]
    lines.append(["decode alone", format_number(1000 / raw.prepare_ms), format_number(raw.prepare_ms)])
    lines.append([f"serial limit (batch {raw.best_batch})", format_number(raw.serial_limit), ""])
    return format_table(["raw ONNX Runtime", "inputs/s", "ms a call"], lines)


def format_number(value: float | None) -> str:
    """Three digits that mean something; a dash for none."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def format_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Right-aligned columns."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in (head, *lines)]
