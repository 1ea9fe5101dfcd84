"""`jitney models check` and `profile` on files, in this process."""
