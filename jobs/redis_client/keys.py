"""The names of all Redis keys and channels, with their types and lifetimes. No other Python module builds a key.

Lua scripts build the keys of a shard from the shard's root, by the same names (`jobs/lua/shared/`). Every key carries
the root's hash tag, so that all keys of a shard lie in one shard slot of a Redis Cluster.

"Score" is the score of a sorted set; times are ms since the epoch. A sequence number is the µs at which a job was
accepted, or one more than the last. A job that is not final is called open.

| under the root `jitney:{sNN}` | type | lifetime | content |
|---|---|---|---|
| `:job:<id>` | hash | while open, then `result_ttl_s` | the job's record: its only source of truth |
| `:input:<id>` | string | a minute; once accepted, while open or a dead letter | an input of 32 kB or more |
| `:output:<id>:<attempt>:<number>` | string | 10 leases; then as the job | a chunk of an output above 1 MiB |
| `:kept_outputs` | sorted set | while not empty | `<ms> <tenant>`, score: when these outputs expire |
| `:kept_output_bytes` | hash | while not empty | bytes of each member of `:kept_outputs` |
| `:queue:<model>:<version>:<lane>:<tenant>` | sorted set | while not empty | queued ids, score: sequence number |
| `:tenant_rotation:<model>:<version>:<lane>` | list | while not empty | tenants with a queue, next one first |
| `:queue:<model>:<version>:suspect:<group>` | sorted set | while not empty | jobs of one suspect group |
| `:tenant_rotation:<model>:<version>:suspect` | list | while not empty | suspect groups with a queue |
| `:isolation:<model>:<version>` | string | a day | ids of the isolated run; `-`: cooldown after it |
| `:fair_share` | hash | permanent, a field per model version | scheduler positions, debts of tenants |
| `:timers` | sorted set | while not empty | ids of open jobs, score: deadline, or end of the lease if earlier |
| `:free_slots:<model>:<version>` | sorted set | 60 s after the last claim | `<worker> <lease_ms>`, score: free slots |
| `:retries` | sorted set | while not empty | ids of queued jobs that wait for a retry, score: when it is due |
| `:parked` | sorted set | while not empty | tenants at their limit of running jobs, score: since when |
| `:parked:<tenant>` | set | while not empty | the rotations it was taken out of, `<model> <version> <lane>` |
| `:dead_letters` | sorted set | members `dead_letter_ttl_s` | `<id> <bytes> <tenant>`, score: when it ended |
| `:tenant_dead_letters:<tenant>` | sorted set | members `dead_letter_ttl_s` | the tenant's members of `:dead_letters` |
| `:dead_letter_counts` | sorted set | as `:dead_letters` | tenants, score: number of their dead letters |
| `:dead_letter_sizes` | sorted set | as `:dead_letters` | tenants, score: bytes of their dead letters |
| `:dead_letter_bytes` | string | permanent | bytes of all dead letters |
| `:open_totals` | hash | permanent, 3 fields per model | rows and bytes of open jobs, jobs submitted |
| `:open_totals`, fields `@<tenant>:…` | | while it has a limit and jobs | rows and bytes of open jobs, running rows |
| `:open_totals`, `outputs`, `@<tenant>:outputs` | | while there are any | bytes of kept outputs that are counted |
| `:counts` | hash | permanent, a few fields per model version | event counters (`jobs/metrics/event_counters.py`) |
| `:tenant_jobs:<tenant>` | sorted set | a week after the last submit | newest ids, score: sequence number |
| `:unsuccessful:<tenant>` | sorted set | members' `dead_letter_ttl_s` | newest that failed, score: sequence number |
| `:job_events:<tenant>` | stream | an hour after the last event | state changes of its jobs, while a client listens |
| `:idempotency:<tenant>:<key>` | string | `idempotency_ttl_s` or the deadline | the job of this Idempotency-Key |
| `:idempotency_many:<tenant>:<key>` | hash | the same | the same for a request of many jobs, by place |
| `:delivery:<id>` | hash | 30 days; ended: `webhook_log_ttl_s` | one notification of one URL, with its attempts |
| `:outbox:<endpoint>` | sorted set | while not empty | waiting deliveries, score: when they are due |
| `:deliveries_running:<endpoint>` | sorted set | while not empty | running deliveries, score: end of the lease |
| `:tenant_deliveries_running:<lane>:<tenant>` | sorted set | as the leases | its running deliveries, by lane |
| `:due:<lane>` | sorted set | while not empty | tenants, score: when an endpoint is due; lane `fast` or `slow` |
| `:due:<lane>:<tenant>` | sorted set | while not empty | the tenant's endpoints, score: when each is due |
| `:endpoint:<endpoint>` | hash | 30 days | a tenant's receiver: its health and its concurrency |
| `:endpoints:<tenant>` | sorted set | 30 days | the tenant's endpoints, score: when the last delivery was created |
| `:deliveries:<tenant>` | sorted set | 30 days | the tenant's deliveries for listing, score: when created |
| `:open_deliveries:<tenant>` | sorted set | 30 days | deliveries that have not ended, score: when created |
| `:ended_deliveries:<tenant>` | sorted set | 30 days | deliveries that have ended, score: when they ended |
| `:file:<id>` | hash | `bulk_ttl_s` and a day; permanent while in use | a stored file: name, bytes, tenant |
| `:files:<tenant>` | sorted set | `bulk_ttl_s` and a day | the tenant's files for listing, score: when created |
| `:expiring_files` | sorted set | while not empty | files, score: when their content is deleted |
| `:bulk:<id>` | hash | while open, then `bulk_ttl_s` and a day | a bulk job: its status and progress |
| `:bulks:<tenant>` | sorted set | twice that | the tenant's bulk jobs for listing, score: when created |
| `:done_lines:<id>` | string | while the bulk job is open | a bit for each line that has an outcome |
| `:bulk_outcomes:<id>` | list | while not empty | outcomes of lines that are not yet stored |
| `:bulk_parts:<id>:<kind>` | list | as the bulk job | parts of its `out` or `err` file, `<bytes> <name>` |
| `:bulk_due` | sorted set | while not empty | tenants with open bulk jobs, score: when a step is due |
| `:bulk_due:<tenant>` | sorted set | while not empty | the tenant's open bulk jobs, score: when the next step is due |
| `:bulk_running` | sorted set | while not empty | bulk jobs with a running step, score: end of its lease |

A member of `:unsuccessful` is `<id> <state> <error code> <model> <version> <lane>` of a job that did not succeed.
The 30 days restart with each use. They grow when deliveries are kept longer or wait longer for an attempt.

| other keys and channels | type | lifetime | content |
|---|---|---|---|
| `jitney:models` | hash | permanent, a field per model version | what workers serve, and when it was last seen |
| `jitney:workers` | set | a day after the last heartbeat | ids of workers that may be alive |
| `jitney:worker:<id>` | string | three heartbeats | a live worker: its models, and those it could not load |
| `jitney:plans` | hash | permanent, a field per model | rollout plans (`jobs/models/rollout_plan.py`) |
| `jitney:stats:<model>` | hash | permanent, ~100 fields | batch sizes and stage times as histograms; accepted jobs |
| `jitney:format` | string | permanent | the format of keys and records; another one is refused at start |
| `jitney:agreement` | hash | permanent, a field per live process | the number of shards; the settings of processes |
| `jitney:digests` | hash | permanent, a field per model version | the digest of the served files, and each worker's |
| `jitney:tenants` | hash | permanent, a field per tenant | limits that differ from the default |
| `jitney:known_tenants` | set | permanent, a member per tenant | tenants that have submitted jobs |
| `jitney:usage` | hash | permanent, 6 fields per tenant | jobs, rows, bytes and device time of each tenant so far |
| `jitney:pauses` | hash | permanent, a field per pause | queues and workers that are paused |
| `jitney:keys` | hash | permanent, a field per API key | hash, tenant and role of each key; never the key |
| `jitney:cpu` | hash | permanent, 3 fields | CPU time in µs used by all processes of a part |
| `jitney:processes` | hash | permanent, a field per live process | see `jobs/metrics/process_reports.py` |
| `jitney:refusals` | hash | permanent, a field per error code | what gateways refused, counted |
| `jitney:listening` | sorted set | half a minute | tenants whose job events a client reads, score: until when |
| `jitney:secret:<tenant>` | hash | permanent | the tenant's webhook signing secret and the previous one |
| `jitney:{rq}:…` | | rq's own | rq's keys, all in one shard slot (`RQ_KEY_PREFIX`) |
| `jitney:gateway:<id>` | channel | | jobs that became final or changed, for a waiting gateway |
| `jitney:wake:<id>` | channel | | for a worker: a model version has work, a handoff, a cancelled job |
| `jitney:events` | channel | | a tenant's `:job_events` has grown |
| `jitney:invalidation` | channel | | models, plans, pauses, API keys, limits or listeners have changed |
| `jitney:outbox` | channel | | a delivery was written, or a bulk job's step is due |
"""

from collections.abc import Callable
from typing import Final

MODELS: Final = "jitney:models"
WORKERS: Final = "jitney:workers"
PLANS: Final = "jitney:plans"
INVALIDATION: Final = "jitney:invalidation"
OUTBOX: Final = "jitney:outbox"
CPU: Final = "jitney:cpu"
PROCESSES: Final = "jitney:processes"
REFUSALS: Final = "jitney:refusals"
API_KEYS: Final = "jitney:keys"
AGREEMENT: Final = "jitney:agreement"
FORMAT: Final = "jitney:format"
TOTALS_OF_FORMAT_1: Final = "jitney:{s00}:load"  # exists in every queue of that format that had a job
DIGESTS: Final = "jitney:digests"
TENANTS: Final = "jitney:tenants"
KNOWN_TENANTS: Final = "jitney:known_tenants"
USAGE: Final = "jitney:usage"
PAUSES: Final = "jitney:pauses"
LISTENING: Final = "jitney:listening"
EVENTS: Final = "jitney:events"

# Patterns of all keys that may have no expiry even when the queue is idle. The tests for leaked keys read this list.
LASTING: Final = (
    r"jitney:\{s\d\d\}:(fair_share|counts|open_totals|kept_outputs|kept_output_bytes)",
    r"jitney:\{s\d\d\}:dead_letter(s|_bytes|_counts|_sizes)",
    r"jitney:\{s\d\d\}:tenant_dead_letters:.+",
    r"jitney:models",
    r"jitney:plans",
    r"jitney:stats:.+",
    r"jitney:(cpu|processes|refusals)",
    r"jitney:(keys|tenants|known_tenants|usage|pauses|agreement|digests|format)",
    r"jitney:secret:.+",
    r"jitney:\{rq\}:.+",
)


def root(shard: int) -> str:
    """Return the prefix of every key of this shard."""
    return f"jitney:{{s{shard:02d}}}"


def _of_shard(name: str) -> Callable[[int], str]:
    return lambda shard: f"{root(shard)}:{name}"


def _of_part(name: str) -> Callable[[int, str], str]:
    return lambda shard, part: f"{root(shard)}:{name}:{part}"


def _of_record(name: str) -> Callable[[str], str]:
    """Return the function that names a record's key. An id begins with the two digits of its shard."""
    return lambda record_id: f"jitney:{{s{record_id[:2]}}}:{name}:{record_id}"


def _of_name(name: str) -> Callable[[str], str]:
    return lambda part: f"jitney:{name}:{part}"


# by shard
counts, open_totals = _of_shard("counts"), _of_shard("open_totals")
timers, retries, parked = _of_shard("timers"), _of_shard("retries"), _of_shard("parked")
dead_letters, dead_letter_bytes = _of_shard("dead_letters"), _of_shard("dead_letter_bytes")
expiring_files = _of_shard("expiring_files")
# by shard and tenant
tenant_jobs, job_events = _of_part("tenant_jobs"), _of_part("job_events")
unsuccessful, parked_rotations = _of_part("unsuccessful"), _of_part("parked")
tenant_dead_letters = _of_part("tenant_dead_letters")
deliveries, endpoints = _of_part("deliveries"), _of_part("endpoints")
files, bulks = _of_part("files"), _of_part("bulks")
# by shard and endpoint
endpoint, outbox, deliveries_running = _of_part("endpoint"), _of_part("outbox"), _of_part("deliveries_running")
file = _of_part("file")  # by shard and file
# by the id of a job, a delivery (it begins with its job's id) or a bulk job (with its input file's shard)
job, input_key, delivery = _of_record("job"), _of_record("input"), _of_record("delivery")
bulk, done_lines = _of_record("bulk"), _of_record("done_lines")
# outside of shards: by worker, model, tenant; channels by gateway and worker
worker, stats, secret = _of_name("worker"), _of_name("stats"), _of_name("secret")
gateway_channel, wake_channel = _of_name("gateway"), _of_name("wake")


def output(job_id: str, attempt: int, number: int) -> str:
    """Return the key of a chunk of a large output that an attempt of a job wrote; the first number is 0."""
    return f"jitney:{{s{job_id[:2]}}}:output:{job_id}:{attempt}:{number}"


def queue(shard: int, model: str, version: str, lane: str, tenant: str) -> str:
    return f"{root(shard)}:queue:{model}:{version}:{lane}:{tenant}"


def tenant_rotation(shard: int, model: str, version: str, lane: str) -> str:
    return f"{root(shard)}:tenant_rotation:{model}:{version}:{lane}"


def free_slots(shard: int, model: str, version: str) -> str:
    """Return the key of `<worker> <lease_ms>` by free slots; a score with a half excludes jobs of lane bulk."""
    return f"{root(shard)}:free_slots:{model}:{version}"


def bulk_parts(bulk_id: str, kind: str) -> str:
    return f"jitney:{{s{bulk_id[:2]}}}:bulk_parts:{bulk_id}:{kind}"
