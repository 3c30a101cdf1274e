"""A student: a model, whole or with a low-rank adapter, and its tokenizer. The only file that knows transformers' classes.

Invariant: what learns is float32, whatever is computed in. Rows are padded on the right and attention is causal, so that no
token ever sees padding and no mask is needed. Not covered: losses, optimizers, files of a checkpoint other than the weights.

    B rows, T tokens, N some tokens of all rows, D width, V vocabulary, H heads, G heads of keys, d width of a head
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from configs import schema
from store.reasoning import inert
from trainers import shards
from trainers.ranks import Alone, Ranks, check_devices, local_rank

THINK = "<think>"
_CONTENT = "CONTENT"
_ADAPTER = "adapter_model.safetensors"


class Chat:
    """A model's chat template and tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.vocabulary: list[str | None] = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self.fingerprint = hashlib.sha256(json.dumps(self.vocabulary).encode()).hexdigest()[:16]
        self._marks = sorted(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        self.end_of_turn = self._find_end_of_turn()

    def prompt(self, user: str, system: str | None) -> str:
        """The conversation up to where the response begins; a `<think>` that the template opens is left to the response."""
        turns = [{"role": "system", "content": self.inert(system)}] if system else []
        text = self._render([*turns, {"role": "user", "content": self.inert(user)}], add_generation_prompt=True)
        return text[: text.rindex(THINK)] if text.rstrip().endswith(THINK) else text

    def inert(self, text: str) -> str:
        """`text` as data: a special token that is spelled out in it is text, and ends no turn."""
        return inert(text, self._marks)

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens of a rendered text, and the characters from and to which each goes."""
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return encoded["input_ids"], encoded["offset_mapping"]

    def save(self, directory: Path) -> None:
        """Write the tokenizer, as the hub has them."""
        self._tokenizer.save_pretrained(str(directory))

    def _find_end_of_turn(self) -> str:
        """The special token that the template puts after an assistant's turn; without one, the end-of-sequence token."""
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _CONTENT}]
        after = self._render(turns).rpartition(_CONTENT)[2].lstrip()
        specials = [token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special]
        return max((token for token in specials if token and after.startswith(token)), key=len, default=self._tokenizer.eos_token)

    def _render(self, turns: list[dict[str, str]], **options: bool) -> str:
        return self._tokenizer.apply_chat_template(turns, tokenize=False, **options)


class StudentModel:
    """The model on its device; `parameters` are what learns."""

    def __init__(self, whole: Any, device: torch.device, dtype: torch.dtype) -> None:
        base: Any = whole.get_base_model() if isinstance(whole, PeftModel) else whole
        self.device = device
        self.dtype = dtype
        self.parameters = [parameter for parameter in whole.parameters() if parameter.requires_grad]
        self._whole = whole
        self._decoder = base.get_decoder()
        self._head = base.get_output_embeddings()
        self.head_learns = any(parameter.requires_grad for parameter in self._head.parameters())
        self._config = base.config.get_text_config()
        self._softcap: float | None = getattr(self._config, "final_logit_softcapping", None)
        self._attention = _last_attention(base)
        self.width: int = self._head.weight.shape[1] if self._head.weight.ndim == 2 else self._config.hidden_size
        self.vocabulary_size: int = self._config.vocab_size
        self.longest: int | None = getattr(self._config, "max_position_embeddings", None)

    @contextmanager
    def precision(self) -> Iterator[None]:
        """Compute in `dtype`: what learns is cast on its way, once per forward pass."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            yield

    def states(self, tokens_BT: Tensor) -> Tensor:
        """States after the final norm: (B, T, D)."""
        return self._decoder(input_ids=tokens_BT, use_cache=False).last_hidden_state

    def head(self, states_ND: Tensor) -> Tensor:
        """Logits: (N, V), float32."""
        logits_NV = self._head(states_ND).float()
        return logits_NV if self._softcap is None else torch.tanh(logits_NV / self._softcap) * self._softcap

    def queries_and_keys(self, states_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Through the query and key projections of the last layer, by head: (B, H, d) and (B, G, d).

        Raises `ValueError` for a model in which there are none that we know.
        """
        config, heads = self._config, self._config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        match self._attention:
            case None:
                name = type(self._decoder).__name__
                raise ValueError(f"{name} has no query and key projections that we know; set compatibility.consensus: 0")
            case (query, key):
                queries, keys = query(states_BD), key(states_BD)
            case joined:
                key_heads = getattr(config, "num_key_value_heads", None) or heads
                queries, keys, _ = joined(states_BD).split([heads * width, key_heads * width, key_heads * width], dim=-1)
        return queries.unflatten(-1, (heads, -1)), keys.unflatten(-1, (-1, width))

    def learn(self, learning: bool) -> None:
        """Dropout on or off."""
        self._whole.train(learning)

    def save(self, directory: Path, *, writes: bool = True) -> None:
        """Write the adapter as peft does, without its empty model card; or the whole model, as the hub has them.

        All ranks take part, one `writes`.
        """
        adapter = isinstance(self._whole, PeftModel)
        shards.part(self._whole)
        state = self._whole.state_dict()
        if adapter:
            state = {name: tensor for name, tensor in state.items() if "lora_" in name}
        whole = shards.gather(state, keep=writes)
        if writes:
            options: dict[str, Any] = {"save_embedding_layers": False} if adapter else {}
            with quiet():
                self._whole.save_pretrained(str(directory), state_dict=whole, **options)
            (directory / "README.md").unlink(missing_ok=True)

    def load(self, directory: Path) -> None:
        """Take the weights that `save` wrote."""
        shards.part(self._whole)
        if isinstance(self._whole, PeftModel):
            saved = self._like_own(load_file(directory / _ADAPTER))
            missing = set_peft_model_state_dict(self._whole, saved).missing_keys
            lost = [key for key in missing if "lora_" in key]
        else:
            with quiet():
                saved = AutoModelForCausalLM.from_pretrained(str(directory), dtype=torch.float32, local_files_only=True)
            lost = self._whole.load_state_dict(self._like_own(saved.state_dict()), strict=False).missing_keys
        if lost:
            raise ValueError(f"{directory}: the saved weights lack {lost[0]} and {len(lost) - 1} more")

    def _like_own(self, saved: dict[str, Tensor]) -> dict[str, Tensor]:
        """Saved weights, split as this student's are; peft leaves its adapter's name out of a file."""
        own = {name.replace(".default.", "."): parameter for name, parameter in self._whole.named_parameters()}
        return {name: shards.scatter(tensor, own[name]) if name in own else tensor for name, tensor in saved.items()}

    def check_head(self) -> None:
        """Compare logits with the model's own on four tokens. Raises `ValueError`: some models do more than we know of."""
        tokens_BT = torch.arange(4, device=self.device).unsqueeze(0)
        self.learn(False)
        with torch.no_grad(), self.precision():
            ours_TV = self.head(self.states(tokens_BT)[0])
            theirs_TV = self._whole(input_ids=tokens_BT, use_cache=False).logits[0].float()
        if not torch.allclose(ours_TV, theirs_TV, rtol=1e-2, atol=1e-2):
            name = type(self._decoder).__name__
            raise ValueError(f"{name} makes its logits in a way that is not supported yet: it cannot be a student")


def load_chat(folder: Path) -> Chat:
    """The tokenizer of a model's folder. Raises `ValueError` if it has no chat template or cannot tell offsets."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    if not tokenizer.chat_template:
        raise ValueError(f"{folder}: this model has no chat template, so it cannot be taught to answer; take its chat version")
    if not tokenizer.is_fast:
        raise ValueError(f"{folder}: this model's tokenizer does not tell where its tokens begin; a fast tokenizer is needed")
    return Chat(tokenizer)


def load_student(folder: Path, config: schema.Student, seed: int, ranks: Ranks | None = None) -> StudentModel:
    """The model of a folder; a new adapter is drawn from `seed`. Raises `ValueError` for one that cannot be a student."""
    ranks = ranks or Alone()
    device = find_device(config.device, local_rank() if config.processes > 1 else None)
    dtype = find_dtype(config.dtype, device)
    if device.index is not None:  # of this thread: collectives run on it
        torch.cuda.set_device(device)
    with ranks.turn():
        with quiet():
            weights = _weights(config, dtype, device)
            base: Any = AutoModelForCausalLM.from_pretrained(str(folder), local_files_only=True, **weights)
        if config.tuning == "qlora":
            _keep_unpacked(base)
        elif not ranks.sharded:  # and 4 bits are there already: bitsandbytes makes them on the device
            base.to(device)
        if config.gradient_checkpointing:
            with quiet():
                base.gradient_checkpointing_enable({"use_reentrant": False})
        whole = base if config.tuning == "full" else _adapted(base, config, seed)
        ranks.split(base.get_decoder(), base, device)
    student = StudentModel(whole, device, dtype)
    student.check_head()
    return student


def check_student(folder: Path, config: schema.Student) -> None:
    """Whether a folder's model can learn as configured, without loading its weights. Raises `ValueError`."""
    check_devices(config)
    load_chat(folder)
    with quiet(), torch.device("meta"):
        settings = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        base: Any = AutoModelForCausalLM.from_config(settings)
    _weights(config, torch.float32, torch.device("cpu"))
    whole = base if config.tuning == "full" else _adapted(base, config, 0)
    student = StudentModel(whole, torch.device("meta"), torch.float32)
    if student.longest is not None and config.max_tokens > student.longest:
        raise ValueError(f"max_tokens: {config.max_tokens} is more than the {student.longest} that {config.model} can read")
    if config.compatibility is not None and config.compatibility.consensus > 0:
        student.queries_and_keys(torch.empty(1, student.width, device="meta"))


def _weights(config: schema.Student, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """How the weights are loaded."""
    if config.tuning == "full":
        return {"dtype": torch.float32}
    if config.tuning == "lora":
        return {"dtype": dtype}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("tuning: qlora needs bitsandbytes, which is not installed: pip install 'peripatos[qlora]'")
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"dtype": dtype, "quantization_config": four_bits, "device_map": {"": device}}


def _keep_unpacked(base: nn.Module) -> None:
    """On CPUs with AVX-512 bitsandbytes packs weights anew in the first pass without gradient, for good: it rounds their scales
    to bfloat16, so that a student measured is another than one not measured, and fails on layers narrower than a block."""
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            vars(module)["support_avx512bf16_for_cpu"] = False


def _adapted(base: Any, config: schema.Student, seed: int) -> PeftModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        with quiet():
            peft = get_peft_model(base, _lora(base, config.lora))
    peft.peft_config["default"].base_model_name_or_path = config.model
    for module in peft.modules():
        if isinstance(module, BaseTunerLayer):  # else peft widens every input to float32, and autocast narrows it again
            vars(module)["cast_input_dtype_enabled"] = False
    if any(parameter.requires_grad for parameter in base.get_output_embeddings().parameters()):
        raise ValueError("lora.targets: the output head cannot have an adapter")
    return peft  # pyright: ignore[reportReturnType] - a mixed one is made only when it is asked for


def find_device(name: str, rank: int | None = None) -> torch.device:
    """The device of a configuration's name; "auto" is a GPU if there is one, and of several processes each has its own."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name if name != "cuda" or rank is None else f"cuda:{rank}")


def find_dtype(name: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.dtype:
    """The type of the frozen weights; "auto" is bfloat16 where the device computes in it."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    native = device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if native else torch.float32


def _lora(base: nn.Module, lora: schema.Lora) -> LoraConfig:
    match lora.targets:
        case "attention":
            targets: list[str] | str = _attention_layers(base)
        case "all-linear":
            targets = "all-linear"
        case names:
            targets = list(names)
    return LoraConfig(
        task_type="CAUSAL_LM", r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets
    )


def _attention_layers(base: nn.Module) -> list[str]:
    """The linear layers inside attention modules, each by its last two names: `self_attn.q_proj`."""
    paths = [name.split(".") for name, module in base.named_modules() if isinstance(module, nn.Linear)]
    found = {".".join(path[-2:]) for path in paths if any("attn" in part or "attention" in part for part in path[:-1])}
    if not found:
        raise ValueError(f"lora.targets: {type(base).__name__} has no attention projections that we know; name its layers")
    return sorted(found)


def _last_attention(base: nn.Module) -> Any:
    """The query and key projections of the last layer, or the one that makes queries, keys and values at once, or None."""
    for module in reversed(list(base.modules())):
        if hasattr(module, "q_proj") and hasattr(module, "k_proj"):
            return module.q_proj, module.k_proj
        for name in ("qkv_proj", "c_attn"):  # Phi-3, GPT-2
            if hasattr(module, name):
                return getattr(module, name)
    return None


@contextmanager
def quiet() -> Iterator[None]:
    """Loading without progress bars and without the libraries' advice to their own developers."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
