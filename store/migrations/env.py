"""What alembic runs around the revisions: online only, on the connection that `upgrade` hands over."""

from alembic import context
from sqlmodel import SQLModel

import store.tables  # noqa: F401 - fills SQLModel.metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata, render_as_batch=True)
context.run_migrations()
