"""Unit tests of the command line: arguments, statistics, and commands that run in this process."""
