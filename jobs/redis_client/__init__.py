"""The connection to Redis: commands, scripts, notifications, and what its errors mean."""
