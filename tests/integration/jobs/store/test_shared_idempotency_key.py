"""An Idempotency-Key for many jobs of one request is stored as one record."""

from jobs.contract.errors import Refused
from jobs.store.admission import DIGEST_CHARS
from tests.integration.jobs.conftest import StoreBench

FACTS = "d" * DIGEST_CHARS


async def test_a_request_of_many_jobs_leaves_one_small_record(bench: StoreBench) -> None:
    jobs = [bench.job(idempotency_key=f"k {place}", digest=FACTS) for place in range(100)]
    made = [accepted.id for accepted in await bench.take(*jobs)]
    with bench.server.client() as client:
        (key,) = client.keys("*:idempotency_many:*")
        assert client.keys("*:idempotency:*") == []
        assert client.hlen(key) == 100
        assert client.object("encoding", key) == b"listpack"
        assert 0 < client.ttl(key) <= bench.store.settings.idempotency_ttl_s
    again = [bench.job(idempotency_key=f"k {place}", digest=FACTS) for place in range(100)]
    assert [accepted.id for accepted in await bench.take(*again)] == made


async def test_positions_of_a_request_are_independent_of_each_other_and_of_single_keys(bench: StoreBench) -> None:
    (first,) = await bench.take(bench.job(idempotency_key="k 3", digest=FACTS))
    (alone,) = await bench.take(bench.job(idempotency_key="k", digest=FACTS))
    jobs = [bench.job(idempotency_key=f"k {place}", digest="e" * DIGEST_CHARS) for place in (2, 3)]
    other, refused = await bench.store.submit(jobs, "")
    assert isinstance(refused, Refused)
    assert refused.code == "idempotency_mismatch"
    assert len({first.id, alone.id, getattr(other, "id", None)}) == 3
