"""The background process: delivers webhooks and runs bulk jobs, on rq threads.

Imports nothing of ONNX Runtime: it runs as a process of its own, also in an image without the runtime.
"""
