"""Plans of epochs, what students tell of each trajectory, and whether the search has ended."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("run") as run:
        run.add_column(sa.Column("searched", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("verdict") as verdict:
        verdict.add_column(sa.Column("epoch", sa.Integer(), nullable=True))
        verdict.create_index("ix_verdict_epoch", ["outcome", "epoch"])
    with op.batch_alter_table("route") as route:
        route.create_index("ix_route_round", ["round"])
    with op.batch_alter_table("report") as report:
        report.add_column(sa.Column("routed", sa.Boolean(), nullable=False, server_default=sa.true()))
        for name in ("alpha", "adaptability", "consensus", "difficulty", "peer"):
            report.add_column(sa.Column(name, sa.Float(), nullable=True))
        report.create_index("ix_report_update", ["update"])
    op.create_table(
        "plan",
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("arrivals", sa.Integer(), nullable=False),
        sa.Column("ended", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("epoch"),
    )
