"""Runs alembic on an open connection, from wherever this package is installed: there is no alembic.ini.

Invariant: all missing revisions are applied in one transaction, or none. Not covered: which revisions are acceptable
(`database.py`).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import StaticPool


def config() -> Config:
    """Alembic's settings; `alembic.command.revision(config(), ..., rev_id="0002")` starts the next revision."""
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    return settings


def upgrade(connection: sqlite3.Connection) -> None:
    """Bring the database behind `connection` to the newest revision; if another process was faster, do nothing."""
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
    event.listen(engine, "begin", _begin)
    with engine.begin() as begun:
        settings = config()
        settings.attributes["connection"] = begun
        command.upgrade(settings, "head")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
