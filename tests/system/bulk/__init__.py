"""Bulk jobs over OpenAI's API, and `jitney bulk run`, on a whole service."""
