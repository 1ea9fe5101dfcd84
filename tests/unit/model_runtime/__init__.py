"""Unit tests of models: settings, loading, batch caps."""
