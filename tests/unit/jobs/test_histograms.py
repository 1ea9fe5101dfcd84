"""Observations are counted in the bucket of the lowest bound that is not below them; sums are exact."""

from jobs.metrics.histograms import MAX_UNCOUNTED, HistogramBuffer


def test_a_value_at_a_bound_belongs_to_its_bucket() -> None:
    buffer = HistogramBuffer()
    buffer.observe("queue", [0.5, 0.501, 1, 20_000, 30_001])
    buffer.observe("queue", [0.0])
    buffer.observe("size", [1, 3, 4, 257])
    assert buffer.take() == {
        "queue:0.5": 2,
        "queue:1": 2,
        "queue:30000": 1,
        "queue:inf": 1,
        "queue:sum": 50_003_001,
        "size:1": 1,
        "size:4": 2,
        "size:inf": 1,
        "size:sum": 265,
    }
    assert buffer.take() == {}


def test_values_counted_before_a_flush_and_at_it_are_added() -> None:
    buffer = HistogramBuffer()
    for _ in range(MAX_UNCOUNTED + 5):
        buffer.observe("infer", [0.25])
    assert buffer.take() == {"infer:0.5": MAX_UNCOUNTED + 5, "infer:sum": 250 * (MAX_UNCOUNTED + 5)}
