"""Delivers webhooks: `drain` hands what is due to rq, whose workers (`carrier`) call `sender`, which settles it.

Needs nothing of what runs models: it is a process of its own, in an image without ONNX Runtime.
"""
