"""Unit tests of tasks: built-in ones, custom ones, boxes of detectors."""
