"""Formats a measurement as a JSON document or as text tables."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from cli.bench.report.environment import describe_machine, describe_method, list_warnings
from cli.bench.session import BenchSession
from cli.bench.statistics import LoadSummary


def build_document(session: BenchSession) -> dict[str, Any]:
    """Return the JSON document of a measurement; field names contain the unit."""
    raw = session.raw()
    target, inputs = session.target, session.inputs
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
        "plan": {name: value for name, value in asdict(session.plan).items() if name != "models_dir"},
        "machine": describe_machine(),
        "raw": None if raw is None else asdict(raw),
        "no_raw": session.no_raw,
        "no_cpu": session.cpu.unknown,
        "service": [asdict(row) for row in session.rows()],
        "first_problem": session.first_problem(),
        "warnings": list_warnings(session),
        "method": describe_method(session),
    }


def format_report(session: BenchSession) -> str:
    document = build_document(session)
    model, inputs = document["model"], document["inputs"]
    lines = [
        f"model {model['name']} version {model['version']} ({model['provider']}, max batch {model['max_batch']})",
        f"at {document['url']}; {inputs['count']} inputs, mean {inputs['mean_bytes']} bytes: {inputs['origin']}",
        "",
        *(line for part in _service_tables(session.rows()) for line in (*part, "")),
        *_raw_table(session),
        "",
        *(f"WARNING: {line}" for line in document["warnings"]),
        *([f"first problem: {document['first_problem']}"] if document["first_problem"] else []),
        "how it was measured",
        *(f"- {line}" for line in document["method"]),
        *([] if session.is_complete else ["", "interrupted: only what was measured until then"]),
    ]
    return "\n".join(lines)


def _service_tables(rows: Sequence[LoadSummary]) -> list[list[str]]:
    closed_loop, open_loop = ([row for row in rows if (row.rate is None) is is_closed] for is_closed in (True, False))
    tables = [_closed_loop_table(closed_loop)] if closed_loop else []
    tables += [_open_loop_table(open_loop)] if open_loop else []
    tables.append(["time per job by stage, mean ms", *_by_name(rows, [row.stages_ms for row in rows])])
    if any(row.cpu_us for row in rows):
        tables.append(["CPU time of the service, us per job", *_by_name(rows, [row.cpu_us for row in rows])])
    return tables


def _closed_loop_table(rows: Sequence[LoadSummary]) -> list[str]:
    head = ["mode", "in flight", "answers/s", "range", "p50 ms", "p90 ms", "p99 ms", "mean batch"]
    head += ["/ raw best", "/ serial limit", "refused", "failures", "gen cpu"]
    lines = []
    for row in rows:
        ratios = ("-" if ratio is None else f"{ratio:.3f}" for ratio in (row.ratio_raw_best, row.ratio_serial_limit))
        lines.append([*_rates(row), *ratios, *_failure_counts(row)])
    if any(row.accepted_rate is not None for row in rows):
        head.insert(4, "accepted/s")
        for row, line in zip(rows, lines, strict=True):
            line.insert(4, format_number(row.accepted_rate))
    return format_table(head, lines)


def _open_loop_table(rows: Sequence[LoadSummary]) -> list[str]:
    head = ["mode", "jobs due", "answers/s", "range", "p50 ms", "p90 ms", "p99 ms", "mean batch"]
    head += ["overdue", "unsent", "refused", "failures", "gen cpu"]
    lines = [[*_rates(row), str(row.overdue), str(row.unsent), *_failure_counts(row)] for row in rows]
    return format_table(head, lines)


def _rates(row: LoadSummary) -> list[str]:
    spread = "-".join(format_number(rate) for rate in row.throughput_range)
    figures = (row.p50_ms, row.p90_ms, row.p99_ms, row.mean_batch)
    return [row.mode, row.load.size, format_number(row.throughput), spread, *map(format_number, figures)]


def _failure_counts(row: LoadSummary) -> list[str]:
    return [str(sum(row.refused.values())), str(sum(row.failures.values())), f"{row.generator_cpu:.2f}"]


def _by_name(rows: Sequence[LoadSummary], figures: Sequence[dict[str, float]]) -> list[str]:
    names = next((list(values) for values in figures if values), [])
    lines = [
        [row.mode, row.load.size, *(format_number(values.get(name)) for name in names)]
        for row, values in zip(rows, figures, strict=True)
    ]
    return format_table(["mode", "load", *names], lines)


def _raw_table(session: BenchSession) -> list[str]:
    raw = session.raw()
    if raw is None:
        return ["raw ONNX Runtime: not measured"]
    lines = [[f"run, batch {n}", format_number(rate), format_number(1000 * n / rate)] for n, rate in raw.rates.items()]
    lines.append(["decode alone", format_number(1000 / raw.prepare_ms), format_number(raw.prepare_ms)])
    lines.append([f"serial limit (batch {raw.best_batch})", format_number(raw.serial_limit), ""])
    return format_table(["raw ONNX Runtime", "inputs/s", "ms per call"], lines)


def format_number(value: float | None) -> str:
    """Format a number with two or three significant digits; None as a dash."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def format_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Format rows as right-aligned columns."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in (head, *lines)]
