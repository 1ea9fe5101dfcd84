"""`jitney models import`: creates model folders from files and model libraries; one module per source."""
