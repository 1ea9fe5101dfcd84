"""From counted answers to figures: percentiles, mean batch, medians over rounds, ratios; asks and prints nothing."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

# As the service reports them on a job, in the order in which they pass.
STAGES: Final = ("queue", "decode", "batch", "infer")


@dataclass(slots=True)
class Slice:
    """One measured stretch at one concurrency. `batches`: how many whole batches the answers came from.

    `stages_ms` are sums over the answers; `failures` counts by kind everything that was no answer.
    """

    concurrency: int
    wall_s: float = 0.0
    generator_cpu: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    batches: float = 0.0
    stages_ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*STAGES, "total"), 0.0))
    failures: Counter[str] = field(default_factory=Counter)
    first_problem: str = ""

    @property
    def throughput(self) -> float:
        """Answers per second."""
        return len(self.latencies_ms) / self.wall_s if self.wall_s else 0.0


@dataclass(frozen=True, slots=True)
class RawRound:
    """ONNX Runtime alone, once: rows per second by batch size, and the seconds that preparing one input takes.

    `foreign_cpu`: cores that others used meanwhile, None where that can not be told.
    """

    rates: dict[int, float]
    prepare_s: float
    foreign_cpu: float | None = None

    def serial_limit(self, batch: int) -> float:
        """Inputs per second where each is first prepared and then run, one after the other."""
        return 1 / (self.prepare_s + 1 / self.rates[batch])


@dataclass(frozen=True, slots=True)
class Raw:
    """Medians over the raw rounds; `best_batch` is the batch size with the highest rate."""

    rates: dict[int, float]
    best_batch: int
    raw_best: float
    prepare_ms: float
    serial_limit: float
    foreign_cpu: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """One concurrency: medians over rounds; `answers` and `failures` are sums. None: no answer, or no raw side."""

    concurrency: int
    rounds: int
    answers: int
    throughput: float
    throughput_range: tuple[float, float]
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    mean_batch: float | None
    stages_ms: dict[str, float]
    failures: dict[str, int]
    generator_cpu: float
    ratio_raw_best: float | None
    ratio_serial_limit: float | None


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all values do not exceed (nearest rank)."""
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]


def mean_batch(answers: int, batches: float) -> float:
    """Riders per batch, not batch size per rider: each answer stands for 1/batch_size of a batch."""
    return answers / batches


def raw_medians(rounds: Sequence[RawRound]) -> Raw:
    """At least one round."""
    rates = {batch: median(one.rates[batch] for one in rounds) for batch in rounds[0].rates}
    best = max(rates, key=lambda batch: rates[batch])
    limit = median(one.serial_limit(best) for one in rounds)
    foreign = _median([one.foreign_cpu for one in rounds if one.foreign_cpu is not None])
    return Raw(rates, best, rates[best], median(one.prepare_s for one in rounds) * 1000, limit, foreign)


def row(slices: Sequence[Slice], raws: Sequence[RawRound]) -> Row:
    """The slices of one concurrency, at least one. A slice is compared with the raw round that went before it."""
    rates = [one.throughput for one in slices]
    answered = [one for one in slices if one.latencies_ms]
    ascending = [sorted(one.latencies_ms) for one in answered]
    best = raw_medians(raws).best_batch if raws else 0
    pairs = list(zip(rates, raws, strict=False))
    p50, p90, p99 = (_median([percentile(values, percent) for values in ascending]) for percent in (50, 90, 99))
    return Row(
        concurrency=slices[0].concurrency,
        rounds=len(slices),
        answers=sum(len(one.latencies_ms) for one in slices),
        throughput=median(rates),
        throughput_range=(min(rates), max(rates)),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_batch=_median([mean_batch(len(one.latencies_ms), one.batches) for one in answered]),
        stages_ms=_stages(answered),
        failures=dict(sum((one.failures for one in slices), Counter[str]())),
        generator_cpu=max(one.generator_cpu for one in slices),
        ratio_raw_best=_median([rate / raw.rates[best] for rate, raw in pairs]),
        ratio_serial_limit=_median([rate / raw.serial_limit(best) for rate, raw in pairs]),
    )


def _stages(answered: Sequence[Slice]) -> dict[str, float]:
    """Mean ms per answer, all rounds together: means add up, medians of means do not."""
    answers = sum(len(one.latencies_ms) for one in answered)
    if not answers:
        return {}
    sums = {name: sum(one.stages_ms[name] for one in answered) / answers for name in (*STAGES, "total")}
    latency = sum(sum(one.latencies_ms) for one in answered) / answers
    total = sums.pop("total")
    return {**sums, "finish": total - sum(sums.values()), "http": latency - total, "latency": latency}


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None
