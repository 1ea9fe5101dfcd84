"""The background process: delivers webhooks and runs bulk jobs. rq starts the work, one event loop does it.

Imports nothing of ONNX Runtime: it runs as a process of its own, also in an image without the runtime.
"""
