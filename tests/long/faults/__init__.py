"""Kills, failovers and failing inputs under load, at production times."""
