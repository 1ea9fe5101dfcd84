"""Shared code of the gateway (`api`), the worker (`worker`) and the background process: job contract and Redis store.

Imports no HTTP framework, numpy or ONNX Runtime, and no other package of Jitney.
"""
