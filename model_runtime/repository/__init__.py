"""Read the models directory: find models and versions, and check their files before they are opened."""
