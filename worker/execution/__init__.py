"""Executes claimed jobs: preprocess, batch, run, postprocess, write results."""
