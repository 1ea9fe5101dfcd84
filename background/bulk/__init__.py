"""Takes bulks forward, step by step, in the process that delivers: validate, expand into jobs, collect, close."""
