"""The arithmetic of `jitney bench`: figures from counted answers."""

import re
from collections import Counter

import pytest

from cli.bench.load.service_cpu import parse_cpu_totals
from cli.bench.load_levels import LoadLevel, list_load_levels
from cli.bench.report.table import format_number, format_table
from cli.bench.statistics import CpuUsage, RawRound, Slice, mean_batch, percentile, summarise_load, summarise_raw


def a_slice(latencies_ms: list[float], wall_s: float = 1.0, batch: int = 1) -> Slice:
    answers, load = len(latencies_ms), LoadLevel("wait", 4)
    sums = dict.fromkeys(("queue", "decode", "batch", "infer"), 1.0 * answers)
    sums["total"] = 6.0 * answers
    return Slice(load, wall_s, 0.1, latencies_ms, answers, answers, answers / batch, sums)


@pytest.mark.parametrize(("percent", "value"), [(1, 1), (50, 50), (90, 90), (99, 99), (100, 100)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, value: float) -> None:
    assert percentile([float(one) for one in range(1, 101)], percent) == value


def test_every_percentile_of_one_value_is_that_value() -> None:
    assert [percentile([7.0], percent) for percent in (1, 50, 99)] == [7.0, 7.0, 7.0]


def test_mean_batch_counts_batches_not_items() -> None:
    sizes = [9] * 9 + [1]  # two batches: one of nine, one of one
    assert mean_batch(len(sizes), sum(1 / size for size in sizes)) == pytest.approx(5)


def test_a_row_takes_medians_over_rounds_and_sums_of_failures() -> None:
    slices = [a_slice([10.0] * 100), a_slice([20.0] * 200, batch=4), a_slice([30.0] * 900, batch=8)]
    slices[0].failures = Counter({"503": 2})
    slices[2].failures = Counter({"503": 1, "failed": 1})
    made = summarise_load(slices, [])
    assert (made.throughput, made.throughput_range, made.answers) == (200, (100, 900), 1200)
    assert (made.p50_ms, made.p99_ms, made.mean_batch) == (20, 20, 4)
    assert made.failures == {"503": 3, "failed": 1}
    assert made.ratio_raw_best is None


def test_the_stages_of_a_row_add_up_to_the_latency() -> None:
    stages = summarise_load([a_slice([8.0, 10.0]), a_slice([9.0])], []).stages_ms
    assert list(stages) == ["queue", "decode", "batch", "infer", "finish", "http", "latency"]
    assert stages["finish"] == pytest.approx(2)
    assert stages["http"] == pytest.approx(3)
    latency = stages.pop("latency")
    assert sum(stages.values()) == pytest.approx(latency) == pytest.approx(9)


def test_a_slice_without_answers_is_a_row_without_latencies() -> None:
    made = summarise_load([a_slice([])], [RawRound({1: 100.0}, 0.01)])
    assert (made.throughput, made.p50_ms, made.mean_batch, made.stages_ms, made.ratio_raw_best) == (
        0,
        None,
        None,
        {},
        0,
    )


def test_raw_best_is_the_faster_batch_and_the_limit_prepares_and_runs_in_turn() -> None:
    raw = summarise_raw([RawRound({1: 100.0, 8: 400.0}, 0.01), RawRound({1: 300.0, 8: 200.0}, 0.01, 0.5)] * 2)
    assert (raw.best_batch, raw.raw_best, raw.other_cpu_cores) == (8, 300, 0.5)
    assert RawRound({8: 400.0}, 0.01).serial_limit(8) == pytest.approx(1 / (0.01 + 1 / 400))


def test_a_ratio_compares_within_its_round() -> None:
    raws = [RawRound({1: 1000.0}, 0.001), RawRound({1: 100.0}, 0.01), RawRound({1: 10.0}, 0.1)]
    made = summarise_load([a_slice([1.0] * 500), a_slice([1.0] * 50), a_slice([1.0] * 5)], raws)
    assert made.ratio_raw_best == pytest.approx(0.5)
    assert made.ratio_serial_limit == pytest.approx(1.0)


def test_the_raw_part_of_an_interrupted_round_is_not_in_the_ratios() -> None:
    raws = [RawRound({1: 1000.0}, 0.001), RawRound({1: 100.0}, 0.01)]
    assert summarise_load([a_slice([1.0] * 500)], raws).ratio_raw_best == pytest.approx(0.5)


def test_a_table_is_aligned_and_numbers_keep_three_digits() -> None:
    assert [format_number(one) for one in (12345.6, 123.4, 12.34, 1.234, 0.0123, 0.0, None)] == [
        "12,346",
        "123",
        "12.3",
        "1.23",
        "0.012",
        "0",
        "-",
    ]
    lines = format_table(["a", "long"], [["100", "1"], ["2", "3"]])
    assert lines == ["  a  long", "100     1", "  2     3"]
    assert len({len(re.sub(r"\S", "x", line)) for line in lines}) == 1


def test_cpu_time_a_job_is_that_of_all_rounds_over_the_jobs_of_all_rounds() -> None:
    slices = [a_slice([1.0] * 10), a_slice([1.0] * 10), a_slice([1.0] * 10)]
    slices[0].cpu = CpuUsage({"gateway": 0.1, "queue": 0.2}, 1000)
    slices[1].cpu = CpuUsage({"gateway": 0.5, "queue": 0.4}, 2000)
    assert summarise_load(slices, []).cpu_us == pytest.approx({"gateway": 200, "queue": 200, "all": 400})
    assert summarise_load(slices[2:], []).cpu_us == {}


def test_unsent_requests_are_in_the_percentiles_with_their_waiting_time() -> None:
    one = a_slice([10.0] * 50)
    one.unsent, one.unsent_ms = 50, [200.0] * 50
    made = summarise_load([one], [])
    assert (made.p50_ms, made.p99_ms, made.unsent) == (10, 200, 50)


def test_metrics_are_summed_by_part_and_over_models() -> None:
    text = """# TYPE jitney_cpu_seconds_total counter
jitney_cpu_seconds_total{part="gateway"} 1.5
jitney_cpu_seconds_total{part="redis"} 0.25
# TYPE jitney_jobs_finished_total counter
jitney_jobs_finished_total{model="a",outcome="succeeded"} 3
jitney_jobs_finished_total{model="b",outcome="failed"} 4
"""
    assert parse_cpu_totals(text) == ({"gateway": 1.5, "redis": 0.25}, 7)
    assert parse_cpu_totals("# TYPE other gauge\nother 1\n") is None


def test_loads_are_listed_by_mode_with_labels() -> None:
    made = list_load_levels(["wait", "bulk"], [1, 8], [50.0])
    assert [str(one) for one in made] == ["c=1", "c=8", "50/s", "bulk c=1", "bulk c=8", "bulk 50/s"]
