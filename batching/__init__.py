"""Micro-batching: decides when a batch closes and what it holds; stacks its inputs and splits its outputs.

Pure code: no clock, no I/O, no asyncio. The caller passes the time as `now`.
"""
