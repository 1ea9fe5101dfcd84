"""`jitney up` and its supervisor, the embedded queue server, and addresses of queues."""
