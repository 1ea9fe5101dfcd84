"""Invariants of all data in Redis at rest; every test of the store ends with them."""

import re
from collections import defaultdict
from contextlib import suppress
from typing import Any

from jobs.contract.lifecycle import FINAL
from jobs.redis_client import keys
from jobs.store.codec import OWN_KEY_BYTES
from jobs.store.raw_record import flatten
from tests.support.waiting import wait_until

LASTING = [re.compile(pattern) for pattern in keys.LASTING]
SHARD = "jitney:{s"
UNEXPIRING_WHILE_OPEN = (
    ":queue:",
    ":tenant_rotation:",
    ":timers",
    ":retries",
    ":job:",
    ":input:",
    ":outbox:",
    ":deliveries_running:",
    ":due:",
    ":parked",
    ":expiring_files",
    ":bulk_due",
    ":bulk_running",
    ":bulk:",
    ":file:",
    ":done_lines:",
    ":bulk_outcomes:",
    ":bulk_parts:",
)


SETTLES_S = 2.0


def check(client: Any) -> None:
    """Fail with every violation that persists for a moment: a late script may run between two reads."""
    wrong: list[str] = []

    def holds() -> bool:
        wrong[:] = _violations(client)
        return not wrong

    with suppress(AssertionError):
        wait_until(holds, "all invariants hold", SETTLES_S)
    assert not wrong, "\n".join(wrong)


def _violations(client: Any) -> list[str]:
    found = [key.decode() for key in client.scan_iter(count=1000)]
    jobs = {
        key.rsplit(":", 1)[1]: flatten(client.hgetall(key)) for key in found if ":job:" in key and key.startswith(SHARD)
    }
    places = _places(client, found)
    wrong = [
        f"{job_id}: {fault}" for job_id, job in jobs.items() for fault in _faults(client, job_id, job, places[job_id])
    ]
    wrong += [f"{job_id} lies in {sorted(places[job_id])} and is no job" for job_id in places if job_id not in jobs]
    wrong += _wrong_rings(client, found)
    wrong += _wrong_loads(client, found, jobs)
    wrong += _wrong_letters(client, found)
    wrong += _wrong_outputs(client, found, jobs)
    wrong += _wrong_inputs(client, found, jobs)
    for key in found:
        lasting = any(pattern.fullmatch(key) for pattern in LASTING) or any(
            part in key for part in UNEXPIRING_WHILE_OPEN
        )
        if client.ttl(key) == -1 and not lasting:
            wrong.append(f"{key} never expires and is not on the list")
    return wrong


def check_outbox(client: Any) -> None:
    """Fail unless every delivery is where its state says, and every endpoint with work is listed."""
    found = [key.decode() for key in client.scan_iter(count=1000) if key.startswith(SHARD.encode())]
    wrong, busy = [], defaultdict(set)
    for key in found:
        root, kind, name = key.split(":", 3)[0] + ":" + key.split(":")[1], key.split(":")[2], key.rpartition(":")[2]
        if kind in {"outbox", "deliveries_running"}:
            busy[root].add(name)
        if kind == "delivery":
            one = _text(client.hgetall(key))
            lines = [f"{root}:{line}:{one['endpoint']}" for line in ("outbox", "deliveries_running")]
            lies = [line for line in lines if client.zscore(line, name) is not None]
            is_open = client.zscore(f"{root}:open_deliveries:{one['tenant']}", name) is not None
            is_ended = client.zscore(f"{root}:ended_deliveries:{one['tenant']}", name) is not None
            if (len(lies), is_open, is_ended) != ((1, True, False) if one["state"] == "waiting" else (0, False, True)):
                wrong.append(f"{name} is {one['state']}, lies in {lies}, is open: {is_open}, has ended: {is_ended}")
    for root, endpoints in busy.items():
        rings = [key for key in found if key.startswith((f"{root}:due:fast:", f"{root}:due:slow:"))]
        turning = [name.decode() for ring in rings for name in client.zrange(ring, 0, -1)]
        for lane in ("fast", "slow"):
            tenants = {name.decode() for name in client.zrange(f"{root}:due:{lane}", 0, -1)}
            holders = {ring.rpartition(":")[2] for ring in rings if f":due:{lane}:" in ring}
            wrong += [] if tenants == holders else [f"{root}: {tenants} take turns in {lane}, {holders} have endpoints"]
        if sorted(turning) != sorted(endpoints):
            wrong.append(f"{root}: {sorted(turning)} are due, {sorted(endpoints)} have something")
    assert not wrong, "\n".join(wrong)


def _faults(client: Any, job_id: str, job: dict[str, str], places: set[str]) -> list[str]:
    state = job["state"]
    if state in FINAL:
        expires = client.ttl(f"jitney:{{s{job_id[:2]}}}:job:{job_id}") > 0
        dead, unreadable = "dead_letters" in places, "unreadable_job" in job.get("error", "")
        faults = [] if expires else ["final, and never expires"]
        is_kept = ("body" in job and state != "succeeded") or client.exists(keys.input_key(job_id))
        faults += ["final, and keeps its input, but is no dead letter"] if is_kept and not dead else []
        faults += ["a dead letter without its input"] if dead and not is_kept and not unreadable else []
        return faults + ([f"final, and lies in {sorted(places)}"] if places - {"dead_letters"} else [])
    wanted = {"queued": [{"queue", "timers"}, {"retries", "timers"}], "running": [{"timers"}]}[state]
    return [] if places in wanted else [f"{state}, and lies in {sorted(places)}"]


def _places(client: Any, found: list[str]) -> dict[str, set[str]]:
    places: dict[str, set[str]] = defaultdict(set)
    for key in found:
        kind = key.split(":")[2] if key.startswith(SHARD) else ""
        if kind in {"queue", "timers", "retries", "dead_letters"}:
            for member in client.zrange(key, 0, -1):
                places[member.decode().partition(" ")[0]].add(kind)
    return places


def _wrong_rings(client: Any, found: list[str]) -> list[str]:
    wanted: dict[str, set[str]] = defaultdict(set)
    for key in found:
        if ":queue:" in key and key.startswith(SHARD):  # rq has keys of that name, too
            ring, tenant = key.replace(":queue:", ":tenant_rotation:").rsplit(":", 1)
            wanted[ring].add(tenant)
    rings = {key: [t.decode() for t in client.lrange(key, 0, -1)] for key in found if ":tenant_rotation:" in key}
    for key in found:  # a tenant that is parked waits all the same
        if ":parked:" in key:
            root, tenant = key.split(":parked:")
            for left in client.smembers(key):
                rings.setdefault(f"{root}:tenant_rotation:{left.decode().replace(' ', ':')}", []).append(tenant)
    return [
        f"{ring} turns among {rings.get(ring, [])}, its lines are of {sorted(wanted[ring])}"
        for ring in {*rings, *wanted}
        if sorted(rings.get(ring, [])) != sorted(wanted[ring])
    ]


def _wrong_loads(client: Any, found: list[str], jobs: dict[str, dict[str, str]]) -> list[str]:
    """The counters of open jobs equal their real number."""
    counted = {
        f"{key}:{name.decode()}": int(n)
        for key in found
        if key.endswith(":open_totals")
        for name, n in client.hgetall(key).items()
        if name not in {b"sequence", b"outputs"} and not name.endswith((b":submitted", b":outputs"))
    }
    there: dict[str, int] = defaultdict(int)
    for job_id, job in jobs.items():
        if job["state"] not in FINAL and "model" in job:
            load = f"jitney:{{s{job_id[:2]}}}:open_totals:{job['model']}"
            of_tenant = load.replace(job["model"], f"@{job['tenant']}")
            for whose in (load, of_tenant) if "quota" in job else (load,):
                there[f"{whose}:jobs"] += int(job.get("rows", 1))
                there[f"{whose}:bytes"] += int(job["input_bytes"])
            if "running_mark" in job:
                there[f"{of_tenant}:running"] += int(job.get("rows", 1))
    return [
        f"{name}: counted {counted.get(name)}, there are {there.get(name)}"
        for name in {*counted, *there}
        if counted.get(name, 0) != there.get(name, 0)
    ]


def _wrong_letters(client: Any, found: list[str]) -> list[str]:
    """The counters of dead letters and bytes, in total and by tenant, equal the real ones."""
    roots = {key.rsplit(":", 1)[0] for key in found if key.endswith(("}:dead_letters", "}:dead_letter_bytes"))}
    sums = {
        root: sum(int(member.split()[1]) for member in client.zrange(f"{root}:dead_letters", 0, -1)) for root in roots
    }
    counted = {root: int(client.get(f"{root}:dead_letter_bytes") or 0) for root in roots}
    wrong = [
        f"{root}: {counted[root]} bytes of dead letters counted, there are {sums[root]}"
        for root in roots
        if counted[root] != sums[root]
    ]
    for root in roots:
        held: dict[str, list[int]] = defaultdict(list)
        for member in client.zrange(f"{root}:dead_letters", 0, -1):
            _, size, tenant = member.decode().split(" ")
            held[tenant].append(int(size))
        letters = {
            key.rpartition(":")[2]: client.zcard(key) for key in found if key.startswith(f"{root}:tenant_dead_letters:")
        }
        counts, sizes = (
            {name.decode(): int(score) for name, score in client.zrange(f"{root}:{kind}", 0, -1, withscores=True)}
            for kind in ("dead_letter_counts", "dead_letter_sizes")
        )
        by_tenant = {tenant: len(some) for tenant, some in held.items()}
        bytes_held = {tenant: sum(some) for tenant, some in held.items() if sum(some)}
        if not by_tenant == letters == counts or sizes != bytes_held:
            wrong.append(f"{root}: letters {by_tenant}, {bytes_held}; listed {letters}, counted {counts}, {sizes}")
    return wrong


def _wrong_outputs(client: Any, found: list[str], jobs: dict[str, dict[str, str]]) -> list[str]:
    """The counters of kept outputs agree, and count all large outputs; every chunk of a kept output exists."""
    wrong: list[str] = []
    for totals in (key for key in found if key.endswith(":open_totals")):
        root = totals.removesuffix(":open_totals")
        groups = {name: int(size) for name, size in _text(client.hgetall(f"{root}:kept_output_bytes")).items()}
        listed = {member.decode() for member in client.zrange(f"{root}:kept_outputs", 0, -1)}
        there: dict[str, int] = defaultdict(int)
        for member, size in groups.items():
            there["outputs"] += size
            there[f"@{member.partition(' ')[2]}:outputs"] += size
        fields = _text(client.hgetall(totals)).items()
        counted = {name: int(n) for name, n in fields if name == "outputs" or name.endswith(":outputs")}
        if counted != there or listed != set(groups):
            wrong.append(f"{root}: kept outputs {dict(there)}, counted {counted}, listed {sorted(listed)}")
    for job_id, job in jobs.items():
        root = f"jitney:{{s{job_id[:2]}}}"
        kept_as = job.get("kept_as")
        if kept_as and int(client.hget(f"{root}:kept_output_bytes", kept_as) or 0) < int(job["output_bytes"]):
            wrong.append(f"{job_id}: its output of {job['output_bytes']} bytes is not counted")
        chunks = [f"{root}:output:{job_id}:{job['attempts']}:{n}" for n in range(int(job.get("output_chunks", 0)))]
        if chunks and "bulk" not in job and client.exists(*chunks) != len(chunks):
            wrong.append(f"{job_id}: chunks of its output are missing")
    return wrong


def _wrong_inputs(client: Any, found: list[str], jobs: dict[str, dict[str, str]]) -> list[str]:
    """A large input stays while its job is open, and expires otherwise."""
    wrong: list[str] = []
    apart = {key.rsplit(":", 1)[1]: client.ttl(key) for key in found if ":input:" in key and key.startswith(SHARD)}
    for job_id, ttl in apart.items():
        is_open = job_id in jobs and jobs[job_id]["state"] not in FINAL
        if is_open != (ttl == -1):
            wrong.append(
                f"{job_id}: its large input has {ttl} s to live, and it is {jobs.get(job_id, {}).get('state')}"
            )
    for job_id, job in jobs.items():
        is_kept = job["state"] not in FINAL and job.get("input_bytes", "0").isdigit()
        if is_kept and int(job.get("input_bytes", 0)) >= OWN_KEY_BYTES and job_id not in apart:
            wrong.append(f"{job_id}: its large input is missing")
    return wrong


def _text(fields: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
