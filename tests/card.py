"""A CUDA card that is not there: tensors that say they are on it live on the CPU, and its streams are watched.

What a card would refuse is refused: operations on tensors of two devices, and a tensor looked at as an array where it
is. What a card would get wrong now and then is told always: work in one stream on what another one has not finished,
and memory given back while a stream still works on it that did not say so. Streams are ordered by vector clocks, as in
`torch.cuda._sanitizer`, which needs a card.
"""

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

CARD = torch.device("cuda:0")

Clock = dict["Stream", int]
"""How much of the work of each stream is done before."""


def merge(clock: Clock, other: Clock) -> None:
    for stream, count in other.items():
        clock[stream] = max(clock.get(stream, 0), count)


class Stream:
    """A queue of work on the card."""

    def __init__(self, device: Any = None) -> None:
        self.clock: Clock = {}

    def __deepcopy__(self, memo: Any) -> "Stream":
        return self

    def wait_stream(self, other: "Stream") -> None:
        merge(self.clock, other.clock)

    def wait_event(self, event: Clock) -> None:
        merge(self.clock, event)

    def record_event(self) -> Clock:
        return dict(self.clock)

    def queue(self, host: Clock) -> int:
        """Queue one more thing, which comes after all that the host has waited for."""
        merge(self.clock, host)
        self.clock[self] = self.clock.get(self, 0) + 1
        return self.clock[self]


class Memory:
    """What a tensor and its views share: the last use by each stream."""

    def __init__(self) -> None:
        self.written: Clock = {}
        self.used: Clock = {}
        self.recorded: set[Stream] = set()


class OnCard(torch.Tensor):
    """A tensor that says it is on the card; `here` is what it is, on the CPU."""

    here: torch.Tensor
    memory: Memory
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: torch.Tensor, memory: Memory) -> "OnCard":
        shape = torch.empty_strided(here.shape, here.stride(), dtype=here.dtype, device="meta")
        made = torch.Tensor._make_subclass(cls, shape, False, dispatch_device=True, device_for_backend_keys=CARD)
        made.here, made.memory = here, memory
        return made

    def __repr__(self) -> str:
        return f"OnCard({tuple(self.shape)}, {self.dtype})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.here.detach().__reduce_ex__(protocol)

    def record_stream(self, stream: Stream) -> None:
        self.memory.recorded.add(stream)

    @torch.no_grad()
    def backward(self) -> None:
        """Take gradients in this thread; torch would ask the driver for one of its own."""
        grads: dict[Any, dict[int, torch.Tensor]] = {self.grad_fn: {0: torch.ones_like(self)}}
        for node in reversed(_after_what_they_need(self.grad_fn)):
            given = grads.pop(node, {})
            if hasattr(node, "variable"):
                node.variable.grad = given[0]
            elif given:
                results = node(*(given.get(i) for i in range(max(given) + 1)))
                results = results if isinstance(results, tuple) else (results,)
                for (other, i), grad in zip(node.next_functions, results, strict=True):
                    if other is not None and grad is not None:
                        sums = grads.setdefault(other, {})
                        sums[i] = sums[i] + grad if i in sums else grad

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return CARD
        raise AssertionError(f"{func} on the card, in a thread in which there is none")


def _after_what_they_need(last: Any) -> list[Any]:
    """Nodes of a graph of gradients, each after those that it hands its gradients to."""
    ordered, seen, left = [], set(), [(last, False)]
    while left:
        node, done = left.pop()
        if done:
            ordered.append(node)
        elif node is not None and node not in seen:
            seen.add(node)
            left += [(node, True), *((other, False) for other, _ in node.next_functions)]
    return ordered


class Card(TorchDispatchMode):
    """The card is there while the block runs, for the thread that runs it.

    Attributes:
        faults: what a real one might get wrong.
        operations: that it was asked for.

    Args:
        free_bytes: of its memory.
    """

    def __init__(self, free_bytes: int = 2**34) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.operations = 0
        self._free_bytes = free_bytes
        self._streams = [Stream()]  # the current one last
        self._host: Clock = {}  # what the host has waited for
        self._memories: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()
        self._patches = contextlib.ExitStack()

    def __enter__(self) -> "Card":
        enter = self._patches.enter_context
        for name, value in {
            "_lazy_init": lambda: None,
            "is_available": lambda: True,
            "is_bf16_supported": lambda including_emulation=True: True,
            "get_device_capability": lambda device=None: (9, 0),
            "mem_get_info": lambda device=None: (self._free_bytes, self._free_bytes),
            "memory_reserved": lambda device=None: 0,
            "memory_allocated": lambda device=None: 0,
            "empty_cache": lambda: None,
            "current_stream": lambda device=None: self._streams[-1],
            "Stream": Stream,
            "stream": self._in_stream,
        }.items():
            enter(patch.object(torch.cuda, name, value))
        for where in ("landcover.engines", "landcover.engines.choice"):
            enter(patch(f"{where}.cuda_devices", lambda: 1))
        enter(patch.object(torch.Tensor, "pin_memory", torch.Tensor.clone))
        enter(patch.object(torch, "inference_mode", torch.no_grad))  # its tensors cannot have attributes
        enter(torch.backends.cudnn.flags(enabled=False))
        torch._C._ensureCUDADeviceGuardSet()  # as for torch's own fake tensors: nothing asks for a driver
        for switch in (
            torch._C._set_only_lift_cpu_tensors,
            torch.__future__.set_overwrite_module_params_on_conversion,
        ):
            switch(True)
            self._patches.callback(switch, False)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    @contextlib.contextmanager
    def _in_stream(self, stream: Stream) -> Iterator[None]:
        self._streams.append(stream)
        try:
            yield
        finally:
            self._streams.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return CARD
        kwargs = kwargs or {}
        name, to = func._schema.name, torch.device(kwargs.get("device") or "meta").type
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        on_card = [x for x in given if isinstance(x, OnCard)]
        if not on_card and to != "cuda":
            return func(*args, **kwargs)
        elsewhere = [x for x in given if not isinstance(x, OnCard) and x.dim()]
        if on_card and elsewhere and name != "aten::copy_":
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")
        self.operations += 1
        stream = self._streams[-1]
        count = stream.queue(self._host)
        written = _written(func, args)
        for x in on_card:
            self._use(name, x, stream, count, writes=any(x is w for w in written))
        inner = dict(kwargs, device=torch.device("cpu")) if "device" in kwargs else kwargs
        result = func(*tree_map_only(OnCard, lambda x: x.here, args), **tree_map_only(OnCard, lambda x: x.here, inner))
        comes_back = to == "cpu" or (name == "aten::copy_" and not isinstance(args[0], OnCard))
        if comes_back or not isinstance(result, torch.Tensor | list | tuple):
            merge(self._host, stream.clock)  # the host waits for what it is to see
            return result
        same = {id(x.here): x for x in on_card}
        return tree_map_only(
            torch.Tensor, lambda x: same[id(x)] if id(x) in same else self._made(x, stream, count), result
        )

    def _use(self, name: str, x: OnCard, stream: Stream, count: int, *, writes: bool) -> None:
        """See that what other streams do with a tensor is done when a stream uses it."""
        memory = x.memory
        for other, done in (memory.used if writes else memory.written).items():
            if other is not stream and stream.clock.get(other, 0) < done:
                self.faults.append(f"{name} on {x!r} does not wait for what another stream does with it")
        memory.used[stream] = count
        if writes:
            memory.written = {stream: count}

    def _made(self, here: torch.Tensor, stream: Stream, count: int) -> OnCard:
        """A result on the card: a view of other memory, or of new one."""
        key = here.untyped_storage()._cdata
        memory = self._memories.get(key)
        if memory is None:
            memory = self._memories[key] = Memory()
            memory.written[stream] = memory.used[stream] = count
            weakref.finalize(memory, self._given_back, stream, memory.used, memory.recorded)
        return OnCard(here, memory)

    def _given_back(self, owner: Stream, used: Clock, recorded: set[Stream]) -> None:
        """See that no stream still uses memory that its owner may use again."""
        for stream, count in used.items():
            known = max(owner.clock.get(stream, 0), self._host.get(stream, 0))
            if stream is not owner and stream not in recorded and known < count:
                self.faults.append("memory was given back while another stream still uses it")


def _written(func: Any, args: Any) -> list[Any]:
    """Which of its arguments an operation changes."""
    named = zip(func._schema.arguments, args, strict=False)
    return tree_leaves([x for a, x in named if a.alias_info is not None and a.alias_info.is_write])
