"""Claims jobs, prepares them, runs them in batches, and writes down how they ended.

In the order a job goes through, in `execution`: `claim_loop` → `pending_items` → `device` → `result_writer`; beside
them `heartbeat` keeps what is held and says who we are. `versions` holds the models; `worker` puts it all together.
"""
