"""Authentication, access control and rate limits of HTTP requests."""
