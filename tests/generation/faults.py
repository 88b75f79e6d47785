"""Ways to break a running engine from outside: a hook before the forward pass of the model that it runs."""

from __future__ import annotations

import threading
from typing import Any


class Fault:
    """Raises or blocks in the next forward pass of the generation thread, once a test says so; counts tokens."""

    def __init__(self, model: Any, *, paged: bool = True) -> None:
        """Hook in; `paged` leaves out plain forward passes, which are those of scoring beside continuous batching."""
        self._paged = paged
        self.error: BaseException | None = None  # raised
        self.blocks = threading.Event()  # waited for while `entered` is set
        self.blocks.set()
        self.entered = threading.Event()
        self.tokens = 0  # of all forward passes
        model.register_forward_pre_hook(self._before, with_kwargs=True)

    def _before(self, model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if self._paged and "cu_seq_lens_q" not in kwargs:
            return
        self.tokens += kwargs["input_ids"].shape[-1]
        if not self.blocks.is_set():
            self.entered.set()
            assert self.blocks.wait(60)
        error, self.error = self.error, None
        if error is not None:
            raise error

    def __deepcopy__(self, memo: dict[int, Any]) -> Fault:
        return self
