"""From encoded images to the pixels that a model takes."""
