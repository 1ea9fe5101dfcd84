"""The records of a measurement (slices, raw rounds) and its figures: percentiles, medians over rounds, ratios."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, NamedTuple

from cli.bench.load_levels import LoadLevel

# The stages in the timings of a job, in order.
STAGES: Final = ("queue", "decode", "batch", "infer")


class CpuUsage(NamedTuple):
    """CPU seconds of the parts of the service over a slice, and the jobs that ended meanwhile."""

    seconds: dict[str, float]
    jobs: float


@dataclass(slots=True)
class Slice:
    """One measured period at one load. An answer is a job with a result; `in_time` counts those during the period.

    `latencies_ms`: one per request. `batches`: the number of batches that the answers amount to.
    `stages_ms`: sums over the answers. `refused` (429, 503) and other `failures` are counted by kind.
    Open loop: `overdue` jobs were sent late, `unsent` ones never; `unsent_ms`: how long the unsent requests waited.
    `accepted` jobs in `accepting_s`: a burst of requests without a wait.
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
        """The latency at 50, 90 and 99 %. An unsent request counts with the time it waited, a lower bound."""
        ascending = sorted([*self.latencies_ms, *self.unsent_ms])
        return [percentile(ascending, percent) for percent in (50, 90, 99)]


@dataclass(frozen=True, slots=True)
class RawRound:
    """One measurement of ONNX Runtime alone: rows per second by batch size, and seconds to preprocess one input.

    `other_cpu_cores`: cores used by other processes meanwhile; None if unknown.
    """

    rates: dict[int, float]
    prepare_s: float
    other_cpu_cores: float | None = None

    def serial_limit(self, batch: int) -> float:
        """Return inputs per second if each is preprocessed and then run, without overlap."""
        return 1 / (self.prepare_s + 1 / self.rates[batch])


@dataclass(frozen=True, slots=True)
class RawSummary:
    """Medians over the raw rounds; `best_batch`: the batch size with the highest rate."""

    rates: dict[int, float]
    best_batch: int
    raw_best: float
    prepare_ms: float
    serial_limit: float
    other_cpu_cores: float | None


@dataclass(frozen=True, slots=True)
class LoadSummary:
    """The figures of one load: medians over rounds, sums of job counts. None: no answer, no raw side, not measured.

    `cpu_us`: CPU time in microseconds per finished job, by part of the service, over all rounds.
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
        """The load level of this row."""
        return LoadLevel(self.mode, self.concurrency or 0, self.rate)


def percentile(ascending: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile of ascending values."""
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]


def mean_batch(answers: int, batches: float) -> float:
    """Return items per batch, averaged over batches: each answer counts as 1/batch_size of a batch."""
    return answers / batches


def summarise_raw(rounds: Sequence[RawRound]) -> RawSummary:
    """Return medians over one or more rounds."""
    rates = {size: median(raw.rates[size] for raw in rounds) for size in rounds[0].rates}
    best = max(rates, key=lambda size: rates[size])
    limit = median(raw.serial_limit(best) for raw in rounds)
    other_cores = _median([raw.other_cpu_cores for raw in rounds if raw.other_cpu_cores is not None])
    return RawSummary(rates, best, rates[best], median(raw.prepare_s for raw in rounds) * 1000, limit, other_cores)


def summarise_load(slices: Sequence[Slice], raws: Sequence[RawRound]) -> LoadSummary:
    """Summarise one or more slices of a load. Each is compared with the raw round before it."""
    rates = [part.throughput for part in slices]
    answered = [part for part in slices if part.latencies_ms]
    best = summarise_raw(raws).best_batch if raws else 0
    pairs = list(zip(rates, raws, strict=False))
    timed = [part.percentiles_ms for part in slices if part.latencies_ms or part.unsent_ms]
    p50, p90, p99 = (_median([percentiles[index] for percentiles in timed]) for index in range(3))
    load = slices[0].load
    return LoadSummary(
        mode=load.mode,
        concurrency=load.concurrency if load.rate is None else None,
        rate=load.rate,
        rounds=len(slices),
        answers=sum(part.answers for part in slices),
        throughput=median(rates),
        throughput_range=(min(rates), max(rates)),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_batch=_median([mean_batch(part.answers, part.batches) for part in answered]),
        stages_ms=_stages(answered),
        accepted_rate=_median([part.accepted / part.accepting_s for part in slices if part.accepted]),
        cpu_us=_cpu_us([part.cpu for part in slices if part.cpu is not None]),
        refused=dict(sum((part.refused for part in slices), Counter[str]())),
        failures=dict(sum((part.failures for part in slices), Counter[str]())),
        overdue=sum(part.overdue for part in slices),
        unsent=sum(part.unsent for part in slices),
        generator_cpu=max(part.generator_cpu for part in slices),
        ratio_raw_best=_median([rate / raw.rates[best] for rate, raw in pairs]),
        ratio_serial_limit=_median([rate / raw.serial_limit(best) for rate, raw in pairs]),
    )


def _stages(answered: Sequence[Slice]) -> dict[str, float]:
    """Return mean ms per answer over all rounds: unlike medians, means of stages add up."""
    answers, requests = (sum(part.answers for part in answered), sum(len(part.latencies_ms) for part in answered))
    if not answers:
        return {}
    sums = {name: sum(part.stages_ms[name] for part in answered) / answers for name in (*STAGES, "total")}
    latency = sum(sum(part.latencies_ms) for part in answered) / requests
    total = sums.pop("total")
    return {**sums, "finish": total - sum(sums.values()), "http": latency - total, "latency": latency}


def _cpu_us(spent: Sequence[CpuUsage]) -> dict[str, float]:
    jobs = sum(usage.jobs for usage in spent)
    if not jobs:
        return {}
    parts = {name: sum(usage.seconds[name] for usage in spent) * 1e6 / jobs for name in spent[0].seconds}
    return {**parts, "all": sum(parts.values())}


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None
