"""How many bytes of tensors are alive at most while something runs: what an allocator would have to hold."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Accounting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.alive = self.most = 0
        self._seen: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def known(self, tensors: list[torch.Tensor]) -> None:
        """Leave out what was there before."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._seen[storage._cdata] = storage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf.untyped_storage())
        return made

    def _note(self, storage: Any) -> None:
        if self._seen.get(storage._cdata) is not None:
            return
        self._seen[storage._cdata] = storage
        size = storage.nbytes()
        self.alive += size
        self.most = max(self.most, self.alive)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.alive -= size


def peak(work: Callable[[], object], before: list[torch.Tensor]) -> int:
    """Return the most bytes that were alive at once, `before` not counted."""
    with _Accounting() as accounting:
        accounting.known(before)
        work()
    return accounting.most
