"""The folder of models: what lies in it, and what of that may be opened."""
