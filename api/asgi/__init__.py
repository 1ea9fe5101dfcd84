"""Requests and responses over ASGI and uvicorn: read, bounded, written."""
