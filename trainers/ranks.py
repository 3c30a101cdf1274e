"""The processes that train one student together: rank 0 leads, the others do as it does.

    rank 0   store, shelf, stdout, disk ──orders──▶ ranks 1 ...                 (over gloo, however long one has to wait)
    all      forward passes dealt out ──▶ gradients added up ──▶ the same step  (over NCCL on GPUs, gloo on CPUs)
                                          what was measured gathered on rank 0

Invariant: N processes make the losses and the weights of one, but for the order in which numbers are added: passes are numbered
through all ranks, a loss is divided by what the whole batch weighs, and gradients are added, not averaged. Waits for: the
slowest rank; a rank that dies breaks the others' next exchange. Not covered: starting and ending the processes
(`torchrun.py`), how weights are split (`shards.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from configs.schema import Student
from trainers import shards

BUCKET = 1 << 24
"""Numbers that are added up at a time: 64 MB of float32."""
_FOREVER = timedelta(days=365)

T = TypeVar("T")


class Ranks(Protocol):
    """One process's view of all that train its student."""

    rank: int
    sharded: bool

    def together(self, function: Callable[..., T], *arguments: Any) -> T:
        """On rank 0: call `function`, while all others call theirs of that name."""
        ...

    def end(self) -> None:
        """On rank 0: the last order. A leader that dies without it lets the others die too."""
        ...

    def deal(self, passes: Sequence[T]) -> list[tuple[int | None, T]]:
        """This rank's passes and their numbers; None is for one that is done only to keep the others company."""
        ...

    def add_up(self, parameters: Iterable[Tensor]) -> None:
        """Every rank's gradients become the sum of all ranks'."""
        ...

    def gather(self, value: T) -> list[T]:
        """On rank 0 the values of all ranks, by rank; on the others nothing."""
        ...

    def turn(self) -> Any:
        """A context that ranks enter one after another where weights are split, so that the host holds the whole once."""
        ...

    def split(self, decoder: Any, base: Any, device: torch.device) -> None:
        """Split the weights over the ranks' devices, if they are to be."""
        ...


class Alone:
    """One process."""

    rank = 0
    sharded = False

    def together(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call it."""
        return function(*arguments)

    def end(self) -> None:
        """Nobody waits."""

    def deal(self, passes: Sequence[T]) -> list[tuple[int | None, T]]:
        """All."""
        return list(enumerate(passes))

    def add_up(self, parameters: Iterable[Tensor]) -> None:
        """They are the sum."""

    def gather(self, value: T) -> list[T]:
        """The one."""
        return [value]

    @contextmanager
    def turn(self) -> Iterator[None]:
        """At once."""
        yield

    def split(self, decoder: Any, base: Any, device: torch.device) -> None:
        """Nothing is split."""


class Together:
    """One of several processes; `open_ranks` makes them."""

    def __init__(self, rank: int, size: int, orders: dist.ProcessGroup, *, sharded: bool) -> None:
        self.rank = rank
        self.size = size
        self.sharded = sharded
        self._orders = orders

    def together(self, function: Callable[..., T], *arguments: Any) -> T:
        """Give the order, then do it too."""
        self._broadcast((function.__name__, arguments))
        return function(*arguments)

    def end(self) -> None:
        """On rank 0: the last order."""
        self._broadcast(None)

    def order(self) -> tuple[str, tuple[Any, ...]] | None:
        """On the other ranks: the next order, None after the last."""
        return self._broadcast(None)

    def deal(self, passes: Sequence[T]) -> list[tuple[int | None, T]]:
        """Every `size`th; where weights are split, all ranks have equally many, since each is needed in every pass."""
        own: list[tuple[int | None, T]] = [(at, each) for at, each in enumerate(passes) if at % self.size == self.rank]
        idle = self.sharded and len(passes) % self.size and self.rank >= len(passes) % self.size
        return [*own, (None, passes[-1])] if idle else own

    def add_up(self, parameters: Iterable[Tensor]) -> None:
        """In buckets; split weights have been added up on the way back. What has no gradient anywhere keeps none."""
        whole = [parameter for parameter in parameters if not shards.is_split(parameter)]
        if not whole:
            return
        known = torch.tensor([each.grad is not None for each in whole], dtype=torch.int32, device=whole[0].device)
        dist.all_reduce(known)
        learnt = [each for each, count in zip(whole, known.tolist(), strict=True) if count]
        for bucket in _buckets(learnt):
            for each in bucket:
                if each.grad is None:
                    each.grad = torch.zeros_like(each)
            flat = torch.cat([each.grad.flatten() for each in bucket if each.grad is not None])
            dist.all_reduce(flat)
            for each, summed in zip(bucket, flat.split([each.numel() for each in bucket]), strict=True):
                each.grad = summed.view_as(each)

    def gather(self, value: T) -> list[T]:
        """Any value that can be pickled."""
        held: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(value, held, dst=0, group=self._orders)
        return held or []

    @contextmanager
    def turn(self) -> Iterator[None]:
        """After the ranks before."""
        for _ in range(self.rank if self.sharded else 0):
            dist.barrier(self._orders)
        yield
        for _ in range(self.rank, self.size if self.sharded else self.rank):
            dist.barrier(self._orders)

    def split(self, decoder: Any, base: Any, device: torch.device) -> None:
        """Layer by layer."""
        if self.sharded:
            shards.split(decoder, base, device, self.size)

    def _broadcast(self, order: Any) -> Any:
        held = [order]
        dist.broadcast_object_list(held, src=0, group=self._orders)
        return held[0]


@contextmanager
def open_ranks(config: Student) -> Iterator[Alone | Together]:
    """This process's place among those of its student. Raises `ValueError` if they are not as many as configured."""
    if config.processes == 1:
        yield Alone()
        return
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size != config.processes:
        raise ValueError(f"student {config.name}: processes: {config.processes}, but {size} were started")
    check_devices(config)
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        orders = dist.new_group(backend="gloo", timeout=_FOREVER)
        assert isinstance(orders, dist.ProcessGroup)
        yield Together(dist.get_rank(), size, orders, sharded=config.shard)
    finally:
        dist.destroy_process_group()


def local_rank() -> int:
    """Which of its machine's processes this is, as torchrun numbers them."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def check_devices(config: Student) -> None:
    """Whether there is a GPU for each process, if it is GPUs that they use. Raises `ValueError`."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", config.processes))
    if config.processes > 1 and config.device != "cpu" and 0 < torch.cuda.device_count() < here:
        raise ValueError(f"processes: {here} on this machine, which has {torch.cuda.device_count()} GPUs")


def _buckets(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    held: list[Tensor] = []
    for each in parameters:
        if held and sum(one.numel() for one in held) + each.numel() > BUCKET:
            yield held
            held = []
        held.append(each)
    if held:
        yield held
