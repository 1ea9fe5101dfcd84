"""What came of it: a table for people, JSON for scripts, and the record that lies in the version."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cli.models.optimizing.evaluation.agreement import Agreement
from cli.models.optimizing.evaluation.timing import LatencyPair, max_rows_per_s

UNITS = ((1 << 20, "MiB"), (1 << 10, "KiB"))


@dataclass
class OptimizationReport:
    """`reason`: why no version was written, empty where one was, or was not to be. `written`: its folder."""

    model: str
    made_from: str
    what: str
    device: str = ""
    runtime: str = ""
    bytes_old: int = 0
    bytes_new: int = 0
    calibrated_with: str = ""
    agreement: Agreement | None = None
    min_agreement: float = 0.0
    latency_ms: Mapping[int, LatencyPair] = field(default_factory=dict)
    prepare_ms: LatencyPair | None = None
    notes: list[str] = field(default_factory=list)
    reason: str = ""
    version: str = ""
    written: str = ""

    @property
    def gain(self) -> float:
        """How many times the throughput, once it was measured."""
        old, new = max_rows_per_s(self.latency_ms)
        return new / old

    def as_json(self) -> dict[str, Any]:
        latency = {str(size): _pair_json(pair) for size, pair in self.latency_ms.items()}
        agreement = self.agreement.as_json() if self.agreement else None
        prepare = _pair_json(self.prepare_ms) if self.prepare_ms else None
        said = {one: value for one, value in asdict(self).items() if one not in {"latency_ms", "prepare_ms"}}
        said |= {"agreement": agreement, "latency_ms": latency, "prepare_ms": prepare}
        if self.latency_ms:
            said["gain"] = round(self.gain, 3)
            said["rows_per_s"] = dict(zip(("old", "new"), max_rows_per_s(self.latency_ms), strict=True))
        return said

    def lines(self) -> list[str]:
        """For people."""
        head = f"{self.model}: version {self.made_from}, {self.what}, on {self.device} (ONNX Runtime {self.runtime})"
        table = [("", f"version {self.made_from}", "optimized", "")]
        table.append(
            (
                "size",
                _format_bytes(self.bytes_old),
                _format_bytes(self.bytes_new),
                _ratio_text(self.bytes_old, self.bytes_new),
            )
        )
        for size, pair in self.latency_ms.items():
            table.append(_row(f"{size} row{'s' * (size > 1)}, ms (least, median)", pair))
        if self.latency_ms:
            old, new = max_rows_per_s(self.latency_ms)
            table.append(("throughput, rows/s", f"{old:.0f}", f"{new:.0f}", _ratio_text(new, old)))
        if self.prepare_ms:
            table.append(_row("prepare a row, ms (least, median)", self.prepare_ms))
        lines = [f"  {what:36}{old:>18}{new:>18}{times:>10}".rstrip() for what, old, new, times in table]
        return [head, *lines, *(f"  {line}" for line in [*self._agreement_text(), *self.notes]), self._verdict()]

    def _agreement_text(self) -> list[str]:
        one = self.agreement
        if one is None:
            return []
        share = f"agreement: {round(one.share * one.rows)} of {one.rows} ({one.share:.1%}) have {one.rule}"
        drift = f"largest difference: {one.drift:.3g} of {one.unit}"
        calibrated = [f"calibrated with {self.calibrated_with}"] if self.calibrated_with else []
        return [f"{share}; {drift}", f"judged by {one.what}", *calibrated]

    def _verdict(self) -> str:
        if self.reason:
            return f"no version was written: {self.reason}"
        if not self.written:
            return "no version was written, as was asked for"
        taken = f"written: {self.written}; workers that watch the folder let it take over, unless another is pinned"
        if not self.latency_ms:
            return f"{taken}; its speed was not measured"
        return f"{taken}; it is SLOWER here: {self.gain:.2f} x the throughput" if self.gain < 1 else taken


def _pair_json(pair: LatencyPair) -> dict[str, Any]:
    return {"old": pair.old._asdict(), "new": pair.new._asdict()}


def _row(what: str, pair: LatencyPair) -> tuple[str, str, str, str]:
    old, new = (f"{one.min_ms:.3f}  {one.p50_ms:.3f}" for one in pair)
    return what, old, new, _ratio_text(pair.old.p50_ms, pair.new.p50_ms)


def _ratio_text(one: float, other: float) -> str:
    return f"{one / other:.2f} x" if other else ""


def _format_bytes(count: int) -> str:
    unit, name = next((pair for pair in UNITS if count >= pair[0]), (1, "B"))
    return f"{count / unit:.2f} {name}" if unit > 1 else f"{count} B"
