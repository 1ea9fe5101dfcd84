"""A model is made faster, and what answers otherwise is refused: on files, and served."""
