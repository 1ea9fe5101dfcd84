"""The `jitney` command line: `main.py` has the table of verbs and their modules, most of which lie here."""
