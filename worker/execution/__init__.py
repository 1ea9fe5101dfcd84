"""From claimed jobs to their results: preprocess, gather, run in batches, write."""
