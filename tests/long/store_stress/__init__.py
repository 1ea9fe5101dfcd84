"""Random steps of the job store, compared with a model of what it promises."""
