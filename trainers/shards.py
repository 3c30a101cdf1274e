"""Weights that are split over several processes (FSDP2): each has a part, and gathers a layer only while it computes with it.

    layers        split along their first dimension, gradients added up on the way back (reduce-scatter)
    all the rest  embeddings, norms, head: whole in every process, gradients added up by `ranks.py`

Invariant: what is written to disk is whole, so a split student's checkpoint looks like any other's. All functions here but
`is_split` are for all ranks at once. Needs torch 2.9 or newer: older ones cannot add gradients without averaging over gloo.
Not covered: weights of 4 bits (refused by the configuration); several machines, on which nothing here was tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def is_split(tensor: Tensor) -> bool:
    """Whether this process has a part of it only."""
    return isinstance(tensor, DTensor)


def split(decoder: nn.Module, base: nn.Module, device: torch.device, size: int) -> None:
    """Split the layers of a model that is on the CPU, one at a time; all the rest goes to `device` whole.

    Raises `ValueError` for a model whose layers are not in a list.
    """
    lists = [child for child in decoder.children() if isinstance(child, nn.ModuleList)]
    if not lists:
        raise ValueError(f"shard: {type(decoder).__name__} has no list of layers that we know of")
    layers = max(lists, key=len)
    mesh = init_device_mesh(device.type, (size,))
    for layer in layers:
        # the last one stays gathered: it is the first on the way back, and COMPACT reads its projections between
        fully_shard(layer, mesh=mesh, reshard_after_forward=layer is not layers[-1])
    whole = {parameter for parameter in base.parameters() if not is_split(parameter)}
    fully_shard(decoder, mesh=mesh, ignored_params=whole)
    for module in decoder.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    for module in base.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)


def part(model: nn.Module) -> None:
    """Let go of layers that are gathered since a pass without a way back."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gather(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole tensors on the CPU, one after another; only ranks that `keep` them have any."""
    gathered = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            gathered[name] = whole.detach().to("cpu") if is_split(tensor) else whole.detach()
    return gathered


def scatter(whole: Tensor, like: Tensor) -> Tensor:
    """`whole`, split as `like` is."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)


def optimizer_state(optimizer: torch.optim.Optimizer, *, keep: bool) -> dict[str, Any]:
    """The optimizer's state with whole tensors."""
    state = optimizer.state_dict()
    return state | {"state": {number: gather(of, keep=keep) for number, of in state["state"].items()}}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Put back what `optimizer_state` gave."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parts = {
        number: {name: scatter(value.clone(), parameters[number]) if value.dim() else value.clone() for name, value in of.items()}
        for number, of in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": parts})


def clip(parameters: Iterable[Tensor], most: float) -> float:
    """Scale the gradients so that their norm, over all ranks, is at most `most`; the norm that they had."""
    known = [parameter for parameter in parameters if parameter.grad is not None]
    if not any(map(is_split, known)):
        return torch.nn.utils.clip_grad_norm_(known, most).item()
    gradients = [_local(parameter.grad) for parameter in known if parameter.grad is not None]
    zero = torch.zeros((), device=gradients[0].device)
    pairs = list(zip(known, gradients, strict=True))
    split_squares = sum((own.float().square().sum() for each, own in pairs if is_split(each)), zero)
    whole_squares = sum((own.float().square().sum() for each, own in pairs if not is_split(each)), zero)
    dist.all_reduce(split_squares)
    norm = (split_squares + whole_squares).sqrt()
    scale = (most / (norm + 1e-6)).clamp(max=1.0)
    for own in gradients:
        own.mul_(scale)
    return norm.item()


def groups(parameters: Iterable[Tensor]) -> list[dict[str, Any]]:
    """What an optimizer is given: split and whole weights apart, since it cannot reckon with both at once."""
    listed = list(parameters)
    parts = [[each for each in listed if is_split(each)], [each for each in listed if not is_split(each)]]
    return [{"params": part} for part in parts if part]


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
