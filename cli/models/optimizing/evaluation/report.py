"""The report of an optimization, as a text table and as JSON, which is also stored in the new version."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cli.models.optimizing.evaluation.agreement import Agreement
from cli.models.optimizing.evaluation.timing import LatencyPair, max_rows_per_s

UNITS = ((1 << 20, "MiB"), (1 << 10, "KiB"))


@dataclass
class OptimizationReport:
    """The result. `reason`: why the version was refused, or empty. `written`: the folder of the new version."""

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
        """The measured throughput as a multiple of the original."""
        old, new = max_rows_per_s(self.latency_ms)
        return new / old

    def as_json(self) -> dict[str, Any]:
        latency = {str(size): _pair_json(pair) for size, pair in self.latency_ms.items()}
        agreement = self.agreement.as_json() if self.agreement else None
        prepare = _pair_json(self.prepare_ms) if self.prepare_ms else None
        document = {name: value for name, value in asdict(self).items() if name not in {"latency_ms", "prepare_ms"}}
        document |= {"agreement": agreement, "latency_ms": latency, "prepare_ms": prepare}
        if self.latency_ms:
            document["gain"] = round(self.gain, 3)
            document["rows_per_s"] = dict(zip(("old", "new"), max_rows_per_s(self.latency_ms), strict=True))
        return document

    def lines(self) -> list[str]:
        """Format the report as text."""
        head = f"{self.model}: version {self.made_from}, {self.what}, on {self.device} (ONNX Runtime {self.runtime})"
        table = [("", f"version {self.made_from}", "optimized", "")]
        ratio = _ratio_text(self.bytes_old, self.bytes_new)
        table.append(("size", _format_bytes(self.bytes_old), _format_bytes(self.bytes_new), ratio))
        for size, pair in self.latency_ms.items():
            table.append(_table_row(f"{size} row{'s' * (size > 1)}, ms (min, median)", pair))
        if self.latency_ms:
            old, new = max_rows_per_s(self.latency_ms)
            table.append(("throughput, rows/s", f"{old:.0f}", f"{new:.0f}", _ratio_text(new, old)))
        if self.prepare_ms:
            table.append(_table_row("preprocess a row, ms (min, median)", self.prepare_ms))
        lines = [f"  {name:36}{old:>18}{new:>18}{ratio:>10}".rstrip() for name, old, new, ratio in table]
        return [head, *lines, *(f"  {line}" for line in [*self._agreement_text(), *self.notes]), self._verdict()]

    def _agreement_text(self) -> list[str]:
        agreement = self.agreement
        if agreement is None:
            return []
        count, rows = round(agreement.share * agreement.rows), agreement.rows
        share = f"agreement: {count} of {rows} ({agreement.share:.1%}) have {agreement.rule}"
        drift = f"largest difference: {agreement.drift:.3g} {agreement.unit}"
        calibrated = [f"calibrated with {self.calibrated_with}"] if self.calibrated_with else []
        return [f"{share}; {drift}", f"compared on {agreement.what}", *calibrated]

    def _verdict(self) -> str:
        if self.reason:
            return f"no version was written: {self.reason}"
        if not self.written:
            return "no version was written (--no-write)"
        text = f"written: {self.written}; workers that watch the folder serve it, unless another version is pinned"
        if not self.latency_ms:
            return f"{text}; its speed was not measured"
        return f"{text}; it is SLOWER here: {self.gain:.2f} x the throughput" if self.gain < 1 else text


def _pair_json(pair: LatencyPair) -> dict[str, Any]:
    return {"old": pair.old._asdict(), "new": pair.new._asdict()}


def _table_row(name: str, pair: LatencyPair) -> tuple[str, str, str, str]:
    old, new = (f"{latency.min_ms:.3f}  {latency.p50_ms:.3f}" for latency in pair)
    return name, old, new, _ratio_text(pair.old.p50_ms, pair.new.p50_ms)


def _ratio_text(value: float, reference: float) -> str:
    return f"{value / reference:.2f} x" if reference else ""


def _format_bytes(count: int) -> str:
    unit, name = next((pair for pair in UNITS if count >= pair[0]), (1, "B"))
    return f"{count / unit:.2f} {name}" if unit > 1 else f"{count} B"
