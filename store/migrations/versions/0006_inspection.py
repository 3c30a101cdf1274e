"""What is counted by the minute, what a living process tells of itself, and what people ask of a run."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "history",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("minute_at", sa.Integer(), nullable=False),
        sa.Column("value", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", "minute_at"),
    )
    op.create_index("ix_history_minute", "history", ["minute_at"], unique=False)
    op.create_table(
        "pulse",
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("beat_at", sa.Float(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("owner"),
    )
    op.create_table(
        "control",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("verb", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=True),
        sa.Column("was", sa.String(), nullable=True),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("asked_at", sa.Float(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("report") as report:
        report.create_index("ix_report_student", ["student", "update"])
    op.drop_index("ix_node_tree", "node")
    op.create_index("ix_node_question", "node", ["question"])  # in the order of arrival, and not touched when a node moves
    op.drop_index("ix_trajectory_question", "trajectory")
    op.create_index("ix_trajectory_question", "trajectory", ["question"])
