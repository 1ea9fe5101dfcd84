"""All tests, by kind: unit, integration, system, faults, security; long runs; and what they share."""
