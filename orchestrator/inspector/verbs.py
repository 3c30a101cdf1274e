"""What may be asked of the run over HTTP: the verbs of the command line, kept with who and when.

Invariant: a verb is checked against the configuration before it is kept; a mistake is one line, with 422. Not covered: who
may ask (`guard.py`), who does it (`orchestrator.controls`).
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from configs.load import ConfigError
from orchestrator.controls import ask
from orchestrator.inspector.api import Of
from orchestrator.inspector.shapes import Asked, Mistake
from store.control import Verb
from store.store import StoreError

verbs = APIRouter(prefix="/api", tags=["control"])


class Control(BaseModel):
    """What is asked. `subject`: a teacher for pause and resume, "" for the whole run; a question for requeue; a key for set."""

    model_config = ConfigDict(extra="forbid")

    verb: Verb
    subject: Annotated[str, Field(max_length=200)] = ""
    value: Annotated[str | None, Field(max_length=64)] = None
    by: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w .@-]+$")] = "somebody at the page"


@verbs.post("/control", responses={400: {"model": Mistake}, 409: {"model": Mistake}})
async def control(of: Of, asked: Control) -> Asked:
    """Pause or resume the run or a teacher, requeue an unsolved question, set a limit or a budget."""
    try:
        number = await ask(of.store, of.folder, asked.verb, asked.subject, asked.value, by=asked.by)
    except ConfigError as error:
        raise HTTPException(422, [{"loc": ["body"], "msg": str(error), "type": "value_error"}]) from error
    except StoreError as error:
        raise HTTPException(409, str(error)) from error
    return Asked(id=number)
