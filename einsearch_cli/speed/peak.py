"""The most memory that one call holds, as torch's own allocator counts it.

On the CPU torch's profiler records every allocation and release, which does not depend
on what the process held before; scratch memory inside the mathematical library is not
seen. On CUDA the allocator keeps the peak itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences the profiler's messages on stderr


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The most bytes held at once during a call, beyond those held before it.

    >>> peak_bytes(lambda: torch.empty(1000, dtype=torch.float64), torch.device("cpu"))
    8000
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = int(torch.cuda.memory_allocated(device))
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        kept = run()
    del kept
    kineto = recorded.profiler.kineto_results if recorded.profiler is not None else None
    events = kineto.events() if kineto is not None else []
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate((int(change) for _, change in changes), initial=0))
