"""Runs the lines of a bulk run as jobs of a service, over HTTP."""
