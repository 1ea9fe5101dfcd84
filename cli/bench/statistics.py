"""From counted answers to figures: percentiles, mean batch, medians over rounds, ratios; asks and prints nothing."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, NamedTuple

from cli.bench.load_levels import LoadLevel

# As the service reports them on a job, in the order in which they pass.
STAGES: Final = ("queue", "decode", "batch", "infer")


class CpuUsage(NamedTuple):
    """What the parts of the service used of CPU time over a slice, and how many jobs they ended with it."""

    seconds: dict[str, float]
    jobs: float


@dataclass(slots=True)
class Slice:
    """One measured stretch at one load. A job with a result is an answer; `in_time`: those that came while it was open.

    `latencies_ms`: one a request, of whatever many jobs. `batches`: how many whole batches the answers came from.
    `stages_ms` are sums over the answers. What was no answer, by kind: `refused` by a service that has too much to do,
    and other `failures`. In an open loop `overdue` jobs left late, and `unsent` ones not at all: `unsent_ms` is how
    long their requests had waited at the end. `accepted` jobs in `accepting_s`: a burst that nobody waited for.
    """

    load: LoadLevel
    wall_s: float = 0.0
    generator_cpu: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    answers: int = 0
    in_time: int = 0
    batches: float = 0.0
    stages_ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*STAGES, "total"), 0.0))
    refused: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    first_problem: str = ""
    overdue: int = 0
    unsent: int = 0
    unsent_ms: list[float] = field(default_factory=list)
    accepted: int = 0
    accepting_s: float = 0.0
    cpu: CpuUsage | None = None

    @property
    def throughput(self) -> float:
        """Answers per second."""
        return self.in_time / self.wall_s if self.wall_s else 0.0

    @property
    def percentiles_ms(self) -> list[float]:
        """At 50, 90 and 99 %. What was not sent took at least as long as it had waited."""
        ascending = sorted([*self.latencies_ms, *self.unsent_ms])
        return [percentile(ascending, percent) for percent in (50, 90, 99)]


@dataclass(frozen=True, slots=True)
class RawRound:
    """ONNX Runtime alone, once: rows per second by batch size, and the seconds that preparing one input takes.

    `other_cpu_cores`: cores that others used meanwhile, None where that can not be told.
    """

    rates: dict[int, float]
    prepare_s: float
    other_cpu_cores: float | None = None

    def serial_limit(self, batch: int) -> float:
        """Inputs per second where each is first prepared and then run, one after the other."""
        return 1 / (self.prepare_s + 1 / self.rates[batch])


@dataclass(frozen=True, slots=True)
class RawSummary:
    """Medians over the raw rounds; `best_batch` is the batch size with the highest rate."""

    rates: dict[int, float]
    best_batch: int
    raw_best: float
    prepare_ms: float
    serial_limit: float
    other_cpu_cores: float | None


@dataclass(frozen=True, slots=True)
class LoadSummary:
    """One load: medians over rounds; counts of jobs are sums. None: no answer, or no raw side, or not measured.

    `cpu_us`: of each part of the service for each job that it ended, all rounds together.
    """

    mode: str
    concurrency: int | None
    rate: float | None
    rounds: int
    answers: int
    throughput: float
    throughput_range: tuple[float, float]
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    mean_batch: float | None
    stages_ms: dict[str, float]
    accepted_rate: float | None
    cpu_us: dict[str, float]
    refused: dict[str, int]
    failures: dict[str, int]
    overdue: int
    unsent: int
    generator_cpu: float
    ratio_raw_best: float | None
    ratio_serial_limit: float | None

    @property
    def load(self) -> LoadLevel:
        """What was asked for."""
        return LoadLevel(self.mode, self.concurrency or 0, self.rate)


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all values do not exceed (nearest rank)."""
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]


def mean_batch(answers: int, batches: float) -> float:
    """Riders per batch, not batch size per rider: each answer stands for 1/batch_size of a batch."""
    return answers / batches


def summarise_raw(rounds: Sequence[RawRound]) -> RawSummary:
    """At least one round."""
    rates = {batch: median(one.rates[batch] for one in rounds) for batch in rounds[0].rates}
    best = max(rates, key=lambda batch: rates[batch])
    limit = median(one.serial_limit(best) for one in rounds)
    foreign = _median([one.other_cpu_cores for one in rounds if one.other_cpu_cores is not None])
    return RawSummary(rates, best, rates[best], median(one.prepare_s for one in rounds) * 1000, limit, foreign)


def summarise_load(slices: Sequence[Slice], raws: Sequence[RawRound]) -> LoadSummary:
    """The slices of one load, at least one. A slice is compared with the raw round that went before it."""
    rates = [one.throughput for one in slices]
    answered = [one for one in slices if one.latencies_ms]
    best = summarise_raw(raws).best_batch if raws else 0
    pairs = list(zip(rates, raws, strict=False))
    waited = [one.percentiles_ms for one in slices if one.latencies_ms or one.unsent_ms]
    p50, p90, p99 = (_median([percentiles[place] for percentiles in waited]) for place in range(3))
    load = slices[0].load
    return LoadSummary(
        mode=load.mode,
        concurrency=load.concurrency if load.rate is None else None,
        rate=load.rate,
        rounds=len(slices),
        answers=sum(one.answers for one in slices),
        throughput=median(rates),
        throughput_range=(min(rates), max(rates)),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_batch=_median([mean_batch(one.answers, one.batches) for one in answered]),
        stages_ms=_stages(answered),
        accepted_rate=_median([one.accepted / one.accepting_s for one in slices if one.accepted]),
        cpu_us=_cpu_us([one.cpu for one in slices if one.cpu is not None]),
        refused=dict(sum((one.refused for one in slices), Counter[str]())),
        failures=dict(sum((one.failures for one in slices), Counter[str]())),
        overdue=sum(one.overdue for one in slices),
        unsent=sum(one.unsent for one in slices),
        generator_cpu=max(one.generator_cpu for one in slices),
        ratio_raw_best=_median([rate / raw.rates[best] for rate, raw in pairs]),
        ratio_serial_limit=_median([rate / raw.serial_limit(best) for rate, raw in pairs]),
    )


def _stages(answered: Sequence[Slice]) -> dict[str, float]:
    """Mean ms per answer, all rounds together: means add up, medians of means do not."""
    answers, requests = (sum(one.answers for one in answered), sum(len(one.latencies_ms) for one in answered))
    if not answers:
        return {}
    sums = {name: sum(one.stages_ms[name] for one in answered) / answers for name in (*STAGES, "total")}
    latency = sum(sum(one.latencies_ms) for one in answered) / requests
    total = sums.pop("total")
    return {**sums, "finish": total - sum(sums.values()), "http": latency - total, "latency": latency}


def _cpu_us(spent: Sequence[CpuUsage]) -> dict[str, float]:
    jobs = sum(one.jobs for one in spent)
    if not jobs:
        return {}
    parts = {part: sum(one.seconds[part] for one in spent) * 1e6 / jobs for part in spent[0].seconds}
    return {**parts, "all": sum(parts.values())}


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None
