"""The inspector: a page, and the same as JSON, over a run's store."""
