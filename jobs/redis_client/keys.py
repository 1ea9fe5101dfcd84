"""Every key and channel in Redis, with its type, its lifetime and what it means. In Python nothing else builds a key.

Lua builds the keys of a shard from the shard's root by the same names (`jobs/lua/shared/`); each carries the root's
hash tag, so all of a shard lies in one slot of a Cluster.

| under the root `jitney:{sNN}` | type | lifetime | what |
|---|---|---|---|
| `:job:<id>` | hash | kept until final, then `result_ttl_s` | the job: the only truth about it |
| `:line:<model>:<version>:<lane>:<tenant>` | sorted set | while not empty | waiting ids by ticket (µs of acceptance) |
| `:ring:<model>:<version>:<lane>` | list | while not empty | tenants whose line is not empty, in turn |
| `:line:<model>:<version>:suspect:<cell>` | sorted set | while not empty | suspects of one cell, who ride together |
| `:ring:<model>:<version>:suspect` | list | while not empty | cells whose line is not empty |
| `:turns` | hash | for ever, a field per model version | seats given so far: decides turns |
| `:leases` | sorted set | while not empty | running ids by the ms at which their lease ends |
| `:deadlines` | sorted set | while not empty | ids that are not final by the ms of their deadline |
| `:seats:<model>:<version>` | sorted set | 60 s after the last claim | `<worker> <ms of its leases>` by free seats |
| `:hosts:<model>:<version>` | set | 60 s after the last claim | the same of workers that found more, and take a guest |
| `:trial:<model>:<version>` | string | a day | the cell of suspects that is tried; `-`: the last killed |
| `:later` | sorted set | while not empty | queued ids that wait for their retry by the ms at which it is due |
| `:parked` | sorted set | while not empty | tenants of which as many jobs run as may, by the ms since when |
| `:parked:<tenant>` | set | likewise | the rings that it left meanwhile, `<model> <version> <lane>` |
| `:dead` | sorted set | members `dead_letter_ttl_s` | dead letters, `<id> <bytes> <tenant>` by the ms of their end |
| `:letters:<tenant>` | sorted set | likewise | the tenant's among them |
| `:dead_counts`, `:dead_sizes` | sorted set | likewise | tenants by the letters they hold, and by their bytes |
| `:dead_bytes` | string | for ever | the sum of those bytes |
| `:load` | hash | for ever, three fields per model | jobs open, bytes of their inputs, jobs submitted; last ticket |
| `:load`, fields `@<tenant>:…` | | while it has a limit and jobs | the same of a tenant, and how many of it run |
| `:counts` | hash | for ever, a few fields per model version | what has happened (jobs/metrics/event_counters.py) |
| `:own:<tenant>` | sorted set | a week and more after the last submit | the tenant's newest ids, for listing |
| `:log:<tenant>` | stream | an hour after the last word | states that its jobs came into, while somebody listens |
| `:idem:<tenant>:<key>` | string | `idempotency_ttl_s`, or its deadline | the job that this Idempotency-Key made |
| `:idems:<tenant>:<key>` | hash | likewise | the same of a request of many jobs, by their places in it |
| `:delivery:<id>` | hash | 30 days; ended: `webhook_log_ttl_s` | a job's end to be told to one URL, and how that went |
| `:outbox:<endpoint>` | sorted set | while not empty | deliveries that wait, by the ms at which they are due |
| `:airborne:<endpoint>` | sorted set | while not empty | deliveries under way, by the ms at which they count as lost |
| `:due:<lane>` | sorted set | while not empty | tenants by the ms at which their turn is due; lane `fast` or `slow` |
| `:due:<lane>:<tenant>` | sorted set | while not empty | its endpoints by the ms at which something is to be done |
| `:flights:<lane>:<tenant>` | sorted set | as a flight | its deliveries under way, by the ms when they are lost |
| `:endpoint:<endpoint>` | hash | 30 days | a tenant's receiver: how it is, how much it gets at a time |
| `:endpoints:<tenant>` | sorted set | 30 days | the tenant's endpoints by the ms of their last delivery |
| `:deliveries:<tenant>` | sorted set | 30 days | the tenant's deliveries by the ms of their making, for listing |
| `:unended:<tenant>` | sorted set | 30 days | those of them that have not ended, by the ms of their making |
| `:ended:<tenant>` | sorted set | 30 days | those of them that have ended, by the ms of their end |
| `:file:<id>` | hash | `bulk_ttl_s` and a day; in use: no end | a stored file: name, bytes, whose it is |
| `:files:<tenant>` | sorted set | likewise | the tenant's files by the ms of their making, for listing |
| `:expiring` | sorted set | while not empty | files by the ms at which their content is removed |
| `:bulk:<id>` | hash | while open; then `bulk_ttl_s` and a day | a bulk: its status, how far its lines are taken |
| `:bulks:<tenant>` | sorted set | twice that | the tenant's bulks by the ms of their making, for listing |
| `:marks:<id>` | string | while the bulk is open | a bit for each line that has an outcome |
| `:outcomes:<id>` | list | while not empty | a bulk's log: outcomes that are not yet stored |
| `:parts:<id>:<kind>` | list | as the bulk | the parts of its output (`out`) and error (`err`) file, `<bytes> <name>` |
| `:steps` | sorted set | while not empty | tenants with open bulks, by the ms at which their turn is due |
| `:steps:<tenant>` | sorted set | while not empty | the tenant's open bulks by the ms at which their next step is due |
| `:stepping` | sorted set | while not empty | bulks whose step is made, by the ms at which it counts as lost |

Each use begins the 30 days again; they are more where a delivery is kept longer, or waits longer for an attempt.

| beside the shards | type | lifetime | what |
|---|---|---|---|
| `jitney:models` | hash | for ever, a field per model version | what workers announced, and when it was last seen |
| `jitney:workers` | set | a day after the last beat | ids of workers that may be alive |
| `jitney:worker:<id>` | string | three beats | a live worker: its models, and those it could not load |
| `jitney:plans` | hash | for ever, a field per model | plans for its versions (jobs/models/rollout_plan.py) |
| `jitney:stats:<model>` | hash | for ever, ~100 fields | histograms of batch sizes and stage times |
| `jitney:agreement` | hash | for ever, a field per live process | the number of shards; settings of processes |
| `jitney:digests` | hash | for ever, a field per model version | which files are served, and who has which |
| `jitney:tenants` | hash | for ever, a field per tenant | limits of tenants that are not the default ones |
| `jitney:keys` | hash | for ever, a field per API key | the keys' hashes, tenants and roles; no key itself |
| `jitney:cpu` | hash | for ever, two fields | CPU time in µs that gateways, and that workers, have used |
| `jitney:listening` | sorted set | half a minute | tenants to whose jobs somebody listens, by the ms until which |
| `jitney:gateway:<id>` | channel | | ids that became final, for a gateway that waits for them |
| `jitney:wake:<id>` | channel | | a worker's wake: a model version has work, or here is some |
| `jitney:events` | channel | | a tenant's log has grown |
| `jitney:news` | channel | | models, plans, API keys or listeners came or went |
| `jitney:secret:<tenant>` | hash | for ever | what the tenant's webhooks are signed with, and what they were before |
| `jitney:{rq}:…` | | rq's own | rq's keys, all in one slot (`RQ_KEY_PREFIX`) |
| `jitney:outbox` | channel | | a delivery was written |
"""

from typing import Final

MODELS: Final = "jitney:models"
WORKERS: Final = "jitney:workers"
PLANS: Final = "jitney:plans"
NEWS: Final = "jitney:news"
OUTBOX: Final = "jitney:outbox"
WORKER_PREFIX: Final = "jitney:worker:"
STATS_PREFIX: Final = "jitney:stats:"
CPU: Final = "jitney:cpu"
API_KEYS: Final = "jitney:keys"
AGREEMENT: Final = "jitney:agreement"
DIGESTS: Final = "jitney:digests"
TENANTS: Final = "jitney:tenants"
LISTENING: Final = "jitney:listening"
EVENTS: Final = "jitney:events"

# Keys that may stay without an expiry; the leak test knows no others.
LASTING: Final = (
    r"jitney:\{s\d\d\}:(turns|counts|load|dead|dead_bytes|dead_counts|dead_sizes)",
    r"jitney:\{s\d\d\}:letters:.+",
    r"jitney:models",
    r"jitney:plans",
    r"jitney:stats:.+",
    r"jitney:cpu",
    r"jitney:(keys|tenants|agreement|digests)",
    r"jitney:secret:.+",
    r"jitney:\{rq\}:.+",
)


def root(shard: int) -> str:
    """What every key of this shard begins with."""
    return f"jitney:{{s{shard:02d}}}"


def job(job_id: str) -> str:
    """Where a job lies: its id names its shard."""
    return f"jitney:{{s{job_id[:2]}}}:job:{job_id}"


def line(shard: int, model: str, version: str, lane: str, tenant: str) -> str:
    return f"{root(shard)}:line:{model}:{version}:{lane}:{tenant}"


def ring(shard: int, model: str, version: str, lane: str) -> str:
    return f"{root(shard)}:ring:{model}:{version}:{lane}"


def seats(shard: int, model: str, version: str) -> str:
    """Worker and its lease in ms → how many seats it keeps free; half a seat more where bulk jobs are kept out."""
    return f"{root(shard)}:seats:{model}:{version}"


def hosts(shard: int, model: str, version: str) -> str:
    return f"{root(shard)}:hosts:{model}:{version}"


def counts(shard: int) -> str:
    return f"{root(shard)}:counts"


def load(shard: int) -> str:
    return f"{root(shard)}:load"


def dead(shard: int) -> str:
    return f"{root(shard)}:dead"


def dead_bytes(shard: int) -> str:
    return f"{root(shard)}:dead_bytes"


def letters(shard: int, tenant: str) -> str:
    return f"{root(shard)}:letters:{tenant}"


def later(shard: int) -> str:
    return f"{root(shard)}:later"


def own(shard: int, tenant: str) -> str:
    return f"{root(shard)}:own:{tenant}"


def log(shard: int, tenant: str) -> str:
    return f"{root(shard)}:log:{tenant}"


def worker(worker_id: str) -> str:
    return WORKER_PREFIX + worker_id


def stats(model: str) -> str:
    return STATS_PREFIX + model


def gateway_channel(gateway_id: str) -> str:
    return f"jitney:gateway:{gateway_id}"


def wake_channel(worker_id: str) -> str:
    return f"jitney:wake:{worker_id}"


def delivery(delivery_id: str) -> str:
    """Where a delivery lies: in the shard of its job, which its id begins with."""
    return f"jitney:{{s{delivery_id[:2]}}}:delivery:{delivery_id}"


def deliveries(shard: int, tenant: str) -> str:
    return f"{root(shard)}:deliveries:{tenant}"


def endpoints(shard: int, tenant: str) -> str:
    return f"{root(shard)}:endpoints:{tenant}"


def endpoint(shard: int, endpoint_id: str) -> str:
    return f"{root(shard)}:endpoint:{endpoint_id}"


def outbox(shard: int, endpoint_id: str) -> str:
    return f"{root(shard)}:outbox:{endpoint_id}"


def airborne(shard: int, endpoint_id: str) -> str:
    return f"{root(shard)}:airborne:{endpoint_id}"


def file(shard: int, file_id: str) -> str:
    return f"{root(shard)}:file:{file_id}"


def files(shard: int, tenant: str) -> str:
    return f"{root(shard)}:files:{tenant}"


def expiring(shard: int) -> str:
    return f"{root(shard)}:expiring"


def bulk(bulk_id: str) -> str:
    """Where a bulk lies: in the shard of its file, which its id begins with."""
    return f"jitney:{{s{bulk_id[:2]}}}:bulk:{bulk_id}"


def bulks(shard: int, tenant: str) -> str:
    return f"{root(shard)}:bulks:{tenant}"


def parts(bulk_id: str, kind: str) -> str:
    return f"jitney:{{s{bulk_id[:2]}}}:parts:{bulk_id}:{kind}"


def marks(bulk_id: str) -> str:
    return f"jitney:{{s{bulk_id[:2]}}}:marks:{bulk_id}"


def secret(tenant: str) -> str:
    return f"jitney:secret:{tenant}"
