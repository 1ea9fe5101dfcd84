"""A bulk run through a service."""
