"""The examples of the README and of the docs, executed as they stand."""
