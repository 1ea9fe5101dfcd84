"""Reading requests and writing responses over ASGI and uvicorn, within limits of size and time."""
