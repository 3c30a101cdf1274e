"""Who asked, what it cost, who paid; claims of a shared ledger; which request failed."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("call") as call:
        call.add_column(sa.Column("agent", sa.String(), nullable=False, server_default=""))
        call.add_column(sa.Column("cost", sa.Float(), nullable=True))
        call.add_column(sa.Column("reused", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("failure") as failure:
        failure.add_column(sa.Column("request", sa.String(), nullable=False, server_default=""))
    op.create_index("ix_failure_subject", "failure", ["subject"], unique=False)
    op.create_table(
        "claim",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_claim_owner", "claim", ["owner"], unique=False)
