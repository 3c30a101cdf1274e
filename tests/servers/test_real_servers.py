"""Real vLLM and SGLang servers on this machine's CPU: what the engine promises, and a run through kills of servers and daemon."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from command import environment, fine, kept, living  # noqa: E402

from agents.engines.base import AnswerLogprobs, Engine, Message, Prompt  # noqa: E402
from agents.engines.openai import OpenAIEngine  # noqa: E402
from agents.engines.transformers import TransformersEngine  # noqa: E402
from agents.errors import EngineError, ModelNotFound, Overlong  # noqa: E402
from agents.models import resolve  # noqa: E402
from agents.roster import open_model  # noqa: E402
from configs.engines import OpenAIEngine as OpenAIConfig  # noqa: E402
from configs.engines import TransformersEngine as TransformersConfig  # noqa: E402
from configs.load import load  # noqa: E402

SERVERS = ROOT / ".servers"
MAWPS = ROOT.parent / "shared" / "data" / "mawps" / "singleop.jsonl"

pytestmark = [
    pytest.mark.servers,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (SERVERS / "sglang" / ".ready").exists(), reason="no servers here: `make servers` installs them"),
]

FRANCE = Prompt(
    messages=(Message(role="user", content="Name the capital of France."),), prefix="<think>\n### Step 1. France's capital is"
)
TALE = "Once upon a time a fox lived at the edge of a wood. " * 30
LONG = Prompt(messages=(Message(role="user", content=TALE + "Where did the fox live?"),), prefix="<think>\n### Step 1. It lived")


def started(kind: str, then: Callable[[Engine, str], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's own server of this kind, and its engine."""
    monkeypatch.chdir(ROOT)
    config = load("servers").engines[kind]

    async def go() -> None:
        async with open_model(kind, config) as model:
            await then(model.engine, model.engine.capabilities.device)

    asyncio.run(go())


def reference() -> dict[Prompt, AnswerLogprobs]:
    """Log-probs of an answer after each prompt, in float32 in this process."""
    model = "HuggingFaceTB/SmolLM2-135M-Instruct"

    async def go() -> dict[Prompt, AnswerLogprobs]:
        config = TransformersConfig(kind="transformers", model=model, dtype="float32")
        async with TransformersEngine(config, resolve(model)) as engine:
            return {prompt: await engine.answer_logprobs(prompt, " at the edge of a wood.") for prompt in (FRANCE, LONG)}

    return asyncio.run(go())


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_what_the_engine_promises_holds_on_a_real_server(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = reference()

    async def then(engine: Engine, url: str) -> None:
        assert engine.capabilities.scores
        await scoring(engine, right)
        await stopping(engine)
        await sampling(engine, seeds=kind == "vllm")
        await structuring(engine)
        await refusing(engine, url)
        await cancelling(engine)

    started(kind, then, monkeypatch)


async def scoring(engine: Engine, right: dict[Prompt, AnswerLogprobs]) -> None:
    """As the model itself in float32 would, within bfloat16's rounding; and a prefix is computed once."""
    for prompt, reference in right.items():
        for _ in range(2):
            scored = await engine.answer_logprobs(prompt, " at the edge of a wood.")
            pairs = list(zip(scored.values, reference.values, strict=True))
            assert max(abs(a - b) for a, b in pairs) < 0.5, pairs
            assert abs(math.fsum(a - b for a, b in pairs) / len(pairs)) < 0.1, pairs
        assert prompt is FRANCE or scored.usage.cached > 0.8 * scored.usage.prompt


async def structuring(engine: Engine) -> None:
    """An answer is held to its JSON schema, whatever the model would rather say; also as a stream."""
    schema = {
        "type": "object",
        "properties": {"reason": {"type": "string", "maxLength": 40}, "ruling": {"enum": ["VALID", "INVALID"]}},
        "required": ["reason", "ruling"],
        "additionalProperties": False,
    }
    assert engine.capabilities.structures
    prompt = Prompt(messages=(Message(role="user", content="Tell a tale of a fox."),), schema=json.dumps(schema))
    for max_tokens in (120, 300):
        (told,) = await engine.generate(prompt, max_tokens=max_tokens, temperature=0.0)
        assert told.finish == "end", told
        assert json.loads(told.text)["ruling"] in ("VALID", "INVALID")


async def stopping(engine: Engine) -> None:
    """New text only; at a stop, at the cap, or at the end; read whole or as a stream (above 256 tokens)."""
    for max_tokens in (40, 300):
        (stopped,) = await engine.generate(FRANCE, max_tokens=max_tokens, temperature=0.0, stop=("Paris", "\n### Step"))
        assert (stopped.finish, stopped.stop) == ("stop", "Paris")
        assert "Paris" not in stopped.text
        assert "Step 1" not in stopped.text
        assert stopped.usage.prompt > 20
    (capped,) = await engine.generate(LONG, max_tokens=3, temperature=0.0)
    assert (capped.finish, capped.usage.completion) == ("length", 3)
    done = Prompt(messages=FRANCE.messages, prefix="The capital of France is Paris")
    (ended,) = await engine.generate(done, max_tokens=200, temperature=0.0)
    assert ended.finish == "end"


async def sampling(engine: Engine, *, seeds: bool) -> None:
    """Each sample is a draw of its own; where the server honours seeds, the same seed draws the same.

    Not of every sample: log-probs depend, by a rounding of bfloat16, on what else is in the batch, and that may tip a token.
    """

    async def draw(seed: int) -> list[str]:
        found = await engine.generate(LONG, n=4, max_tokens=16, temperature=1.0, seed=seed)
        return [completion.text for completion in found]

    first, second, again = await draw(1), await draw(2), await draw(1)
    assert len(first) == 4
    assert len(set(first)) > 1
    assert first != second
    assert not seeds or any(a == b for a, b in zip(first, again, strict=True))
    (scored,) = await engine.generate(FRANCE, max_tokens=5, temperature=1.0, logprobs=True)
    assert scored.logprobs
    assert all(value <= 0 for value in scored.logprobs)


async def refusing(engine: Engine, url: str) -> None:
    with pytest.raises(Overlong):
        await engine.generate(FRANCE, max_tokens=5000)
    with pytest.raises(ModelNotFound, match="has no model 'other'; it has: smol"):
        async with OpenAIEngine(OpenAIConfig(kind="openai", url=url, model="other"), url, None):
            pass
    async with OpenAIEngine(OpenAIConfig(kind="openai", url=url, model="smol"), url, None) as chat:
        assert not chat.capabilities.scores  # without a tokenizer
        (completion,) = await chat.generate(FRANCE, max_tokens=20, temperature=0.0, stop=("Paris",))
        assert (completion.finish, completion.stop) == ("stop", "Paris")
        with pytest.raises(EngineError):
            await chat.generate(FRANCE, max_tokens=5000)


async def cancelling(engine: Engine) -> None:
    """A call that is cancelled is given up by the server too: eight long ones leave room for a short one."""

    async def write() -> None:
        await engine.generate(LONG, max_tokens=1000, temperature=1.0)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(write()) for _ in range(8)]
        await asyncio.sleep(1.0)
        for task in tasks:
            task.cancel()
    started = time.monotonic()
    await engine.generate(FRANCE, max_tokens=8)
    assert time.monotonic() - started < 10


def guardians(run: Path) -> dict[str, int]:
    """The newest guardian of each server, from the run's log."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return {line["server"]: line["pid"] for line in lines if line["event"] == "server_started"}


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def session(leader: int) -> list[str]:
    found = subprocess.run(["ps", "-o", "stat=,args=", "-s", str(leader)], capture_output=True, text=True, check=False)
    return [line for line in found.stdout.splitlines() if not line.startswith("Z")]


@pytest.mark.chaos
@pytest.mark.skipif(not MAWPS.exists(), reason=f"no question sets at {MAWPS.parent}")
@pytest.mark.parametrize("prover", ["sglang", "vllm"])
def test_a_run_outlives_the_death_of_both_servers_and_its_own(tmp_path: Path, prover: str) -> None:
    (tmp_path / ".servers").symlink_to(SERVERS)
    source = {"kind": "file", "path": str(MAWPS), "format": "mawps", "count": 13}  # one of them is there twice
    arguments = ["run", "servers", "--json", "--set", f"questions={json.dumps([source])}", "--set", "limits.questions=4"]
    arguments += ["--set", f"prover.engine={prover}"]
    run = tmp_path / "runs" / "servers"

    with living(*arguments, cwd=tmp_path) as daemon:
        assert daemon.stderr
        solved = 0
        for line in daemon.stderr:
            solved += bool(re.match(r"  (un)?solved ", line))
            if solved == 2:
                break
        first = {name: children(pid)[0] for name, pid in guardians(run).items()}
        assert set(first) == {"vllm", "sglang"}
        for pid in first.values():
            os.kill(pid, signal.SIGKILL)
        seen = set()
        for line in daemon.stderr:
            seen |= set(re.findall(r"^server (\w+) died", line))
            solved += bool(re.match(r"  (un)?solved ", line))
            if solved >= 5 and len(seen) == 2:
                break
        assert seen == {"vllm", "sglang"}
        second = {name: children(pid)[0] for name, pid in guardians(run).items()}
        assert not set(first.values()) & set(second.values())
        assert not [each for pid in first.values() for each in session(pid)]
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
    limit = time.monotonic() + 60
    while any(session(pid) for pid in second.values()):
        assert time.monotonic() < limit, [session(pid) for pid in second.values()]
        time.sleep(0.2)

    settled = {id: state for id, state in kept(run).states().items() if state in {"solved", "unsolved"}}
    assert len(settled) >= 4
    done = fine(*arguments, cwd=tmp_path, limit_s=600)
    after = kept(run)
    after.balances()
    assert done.summary["questions"] == 12
    assert done.summary["failures"] == 0
    assert settled.items() <= after.states().items()
    assert list(after.states().values()).count("solved") >= 4
    assert not [pid for pid in guardians(run).values() if Path(f"/proc/{pid}").exists()]


def test_a_server_that_cannot_start_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".servers").symlink_to(SERVERS)
    wrong = json.dumps(["--context-length", "2048", "--no-such-argument"])
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "run", "servers", "--set", f"engines.sglang.server.args={wrong}"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("peripatos: ")]
    assert "server sglang died" in line
    assert "no-such-argument" in line
    assert "Traceback" not in done.stderr
