"""A cluster of gateways, workers and a queue behind proxies, whose parts can be broken."""
