"""Reports of processes in Redis: each flush renews one, and those of processes that are gone disappear."""

from jobs.metrics.process_reports import ProcessReporter, read_reports
from jobs.redis_client import keys
from tests.integration.jobs.conftest import StoreBench
from tests.support.waiting import wait_until_async


async def test_a_report_lives_as_long_as_its_process_writes_it(bench: StoreBench) -> None:
    connection = bench.store.connection
    one, other = ProcessReporter("worker", "one", 1), ProcessReporter("gateway", "other", 1)
    await one.flush(connection, running={"m 1": 3}, gpus=[])
    await other.flush(connection)
    await one.flush(connection, running={"m 1": 2}, gpus=[])
    reports = {report["part"]: report for report in await read_reports(connection)}
    assert reports["worker"]["running"] == {"m 1": 2}
    assert reports["gateway"]["memory_bytes"] > 1 << 20
    await one.withdraw(connection)
    assert [report["part"] for report in await read_reports(connection)] == ["gateway"]


async def test_an_expired_report_is_removed_and_a_broken_one_is_passed_over(bench: StoreBench) -> None:
    connection = bench.store.connection
    reporter = ProcessReporter("background", "gone", 1)
    reporter._ttl_ms = 50
    await reporter.flush(connection, rq={"fast": 1})
    await connection.command("HSET", keys.PROCESSES, "broken", "junk", "newer", "9000000000000000 {not json")

    async def is_removed() -> bool:
        assert [report["part"] for report in await read_reports(connection)] in ([], ["background"])
        return set(await connection.command("HKEYS", keys.PROCESSES)) == {b"newer"}

    await wait_until_async(is_removed, "it has expired")
