"""Other right answers; styles, where an answer stood, what it was compared with; rulings and consensus graphs."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("question") as question:
        question.add_column(sa.Column("aliases", sa.String(), nullable=False, server_default="[]"))
        question.add_column(sa.Column("target", sa.String(), nullable=True))
        question.add_column(sa.Column("target_support", sa.Float(), nullable=True))
    with op.batch_alter_table("trajectory") as trajectory:
        trajectory.add_column(sa.Column("where", sa.String(), nullable=True))
        trajectory.add_column(sa.Column("style", sa.String(), nullable=True))
        trajectory.add_column(sa.Column("target", sa.String(), nullable=True))
        trajectory.add_column(sa.Column("cost", sa.Float(), nullable=True))
    with op.batch_alter_table("verdict") as verdict:
        verdict.add_column(sa.Column("target", sa.String(), nullable=True))
    op.create_table(
        "ruling",
        sa.Column("trajectory", sa.String(), nullable=False),
        sa.Column("judge", sa.String(), nullable=False),
        sa.Column("ruled", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("details", sa.String(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["trajectory"], ["trajectory.id"]),
        sa.PrimaryKeyConstraint("trajectory", "judge"),
    )
    op.create_table(
        "consensus",
        sa.Column("question", sa.String(), nullable=False),
        sa.Column("embedder", sa.String(), nullable=False),
        sa.Column("clusters", sa.String(), nullable=False),
        sa.Column("edges", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=True),
        sa.Column("target_support", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["question"], ["question.id"]),
        sa.PrimaryKeyConstraint("question"),
    )
    op.create_table(
        "standing",
        sa.Column("trajectory", sa.String(), nullable=False),
        sa.Column("question", sa.String(), nullable=False),
        sa.Column("centrality", sa.Float(), nullable=False),
        sa.Column("nearest", sa.Float(), nullable=False),
        sa.Column("support", sa.Float(), nullable=True),
        sa.Column("misleading", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["question"], ["question.id"]),
        sa.ForeignKeyConstraint(["trajectory"], ["trajectory.id"]),
        sa.PrimaryKeyConstraint("trajectory"),
    )
    op.create_index("ix_standing_question", "standing", ["question"], unique=False)
