"""`jitney models check`, `doctor` and `profile` on files, in this process."""
