"""The schema's history, as alembic revisions `0001`, `0002`, ...: numbered so that a newer one compares greater."""

HEAD = "0006"
"""The newest revision, so that opening an up-to-date store need not import alembic."""
