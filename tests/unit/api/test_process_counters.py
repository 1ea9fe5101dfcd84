"""Counters of requests in memory that the processes of a port share."""

import tempfile

from api.metrics.process_counters import BOUNDS_S, MAX_ROUTES, ProcessCounters, RouteCounts
from api.metrics.render_gateway import render


def by_route(counters: ProcessCounters) -> dict[str, RouteCounts]:
    return {f"{each.method} {each.route}": each for each in counters.read().routes}


def test_a_request_is_counted_by_status_and_time() -> None:
    counters = ProcessCounters()
    for status, seconds in ((200, 0.001), (200, 0.0011), (404, 61), (418, 0)):
        counters.observe("GET", "/a/{b}", status, seconds)
    (found,) = counters.read().routes
    assert (found.method, found.route, found.statuses) == ("GET", "/a/{b}", {200: 2, 404: 1, 0: 1})
    assert found.seconds.buckets == [2, 1, *[0] * (len(BOUNDS_S) - 2), 1]  # a bound belongs to its bucket
    assert found.seconds.sum_us == 61_002_100


def test_processes_that_share_a_file_answer_their_sums() -> None:
    with tempfile.TemporaryFile() as shared:
        one, other = (ProcessCounters(shared.fileno(), slot, 2) for slot in range(2))
        one.observe("GET", "/a", 200, 0.1)
        other.observe("POST", "/b", 202, 0.1)
        other.observe("GET", "/a", 200, 0.1)
        for counters, connections in ((one, 3), (other, 4)):
            counters.write(connections)
            counters.observe_delay(0.02)
        assert one.read() == other.read()
        read = one.read()
        assert (read.processes, read.connections, sum(read.loop_delay.buckets)) == (2, 7, 2)
        assert read.memory_bytes > 1 << 20
        assert {name: each.statuses for name, each in by_route(one).items()} == {
            "GET /a": {200: 2},
            "POST /b": {202: 1},
        }


def test_a_process_that_starts_again_goes_on_counting() -> None:
    with tempfile.TemporaryFile() as shared:
        before = ProcessCounters(shared.fileno(), 0, 2)
        before.observe("GET", "/a", 200, 0.1)
        before.write(1)
        cpu_us = before.read().cpu_us
        after = ProcessCounters(shared.fileno(), 0, 2)
        after.observe("GET", "/b", 200, 0.1)
        after.observe("GET", "/a", 200, 0.1)
        assert {name: each.statuses for name, each in by_route(after).items()} == {
            "GET /a": {200: 2},
            "GET /b": {200: 1},
        }
        after.write(0)
        assert after.read().cpu_us >= cpu_us


def test_the_number_of_routes_is_bounded() -> None:
    counters = ProcessCounters()
    for number in range(2 * MAX_ROUTES):
        counters.observe("GET", f"/{number}", 200, 0)
    counters.observe("GET", "/" + "a" * 200, 200, 0)
    found = by_route(counters)
    assert len(found) == MAX_ROUTES + 1
    assert found[" unmatched"].statuses == {200: MAX_ROUTES + 1}


def test_the_text_names_other_statuses_and_cumulates_buckets() -> None:
    counters = ProcessCounters()
    counters.observe("GET", "/a", 418, 0.3)
    text = render(counters.read()).decode()
    assert 'jitney_http_requests_total{method="GET",route="/a",status="other"} 1.0' in text
    assert 'jitney_http_request_seconds_bucket{le="0.25",method="GET",route="/a"} 0.0' in text
    assert 'jitney_http_request_seconds_bucket{le="0.5",method="GET",route="/a"} 1.0' in text
    assert 'jitney_http_request_seconds_bucket{le="60.0",method="GET",route="/a"} 1.0' in text
