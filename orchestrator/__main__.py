"""python -m orchestrator: the command line (`cli.py`), whose `run` leads to the loop (`run.py`)."""

import sys

from orchestrator.cli import entry

sys.exit(entry())
