"""Claims jobs, prepares them, runs them in batches, and writes down how they ended.

In the order a job goes through: `intake` → `board` → `inference` → `finishing`; beside them `leases` keeps what is held
and `announcing` says who we are. `models/` knows what a model is; `runtime` puts it all together.
"""
