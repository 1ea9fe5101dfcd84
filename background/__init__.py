"""Background work, carried by rq: webhooks are delivered, and bulks taken forward.

Needs nothing of what runs models: it is a process of its own, in an image without ONNX Runtime.
"""
