"""What a step cost, and why it was pruned."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("node") as node:
        node.add_column(sa.Column("cost", sa.Float(), nullable=True))
        node.add_column(sa.Column("reason", sa.String(), nullable=False, server_default=""))
