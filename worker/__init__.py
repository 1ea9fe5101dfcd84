"""The worker: claims jobs, preprocesses them, runs them in micro-batches and writes their results.

A job passes through `execution`: `claim_loop` → `pending_items` → `device` → `result_writer`. `heartbeat` renews leases
and registers the worker, `versions` loads models, `worker` connects all parts.
"""
