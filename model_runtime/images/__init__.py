"""Decode images safely and preprocess them into a model's pixels."""
