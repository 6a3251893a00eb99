"""Arrows between slices: from a launch to its kernel, and along a request from process to process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...model.events import EventKind, Ints
from ...model.trace import Trace

# Flow ids of the critical path's hops start above any row number.
FIRST_HOP_FLOW = 1 << 40


@dataclass(frozen=True, slots=True)
class Flows:
    """The flow that leaves and the flow that enters each row of the event table; 0: none."""

    out: Ints
    into: Ints


def link_events(trace: Trace) -> Flows:
    """Find the arrows between events of a trace. A flow's id is its origin's row + 1."""
    flows = Flows(np.zeros(len(trace.events), np.int64), np.zeros(len(trace.events), np.int64))
    _link_requests(trace, flows)
    _link_launches(trace, flows)
    return flows


def _link_launches(trace: Trace, flows: Flows) -> None:
    """Link each API call to the first activity of its correlation id: the latest such call before the activity."""
    events = trace.events
    api = np.flatnonzero((events.kind == EventKind.CUDA_API) & (events.detail > 0))
    gpu_kinds = [EventKind.GPU_KERNEL, EventKind.GPU_MEMCPY, EventKind.GPU_MEMSET]
    gpu = np.flatnonzero(np.isin(events.kind, gpu_kinds) & (events.detail > 0))
    if not len(api) or not len(gpu):
        return
    gpu = gpu[np.argsort(events.start_ns[gpu], kind="stable")]
    # Correlation ids repeat between processes. Searching (id, start) pairs as one sorted list finds the latest call.
    both = np.concatenate([api, gpu])
    is_gpu = np.repeat([0, 1], [len(api), len(gpu)])
    order = np.lexsort((is_gpu, events.start_ns[both], events.detail[both]))
    position = np.where(is_gpu[order] == 0, np.arange(len(order)), -1)
    latest_api = np.maximum.accumulate(position)
    at_gpu = (is_gpu[order] == 1) & (latest_api >= 0)
    kernels, calls = both[order[at_gpu]], both[order[latest_api[at_gpu]]]
    same_id = events.detail[kernels] == events.detail[calls]
    calls, first = np.unique(calls[same_id], return_index=True)
    flows.out[calls] = calls + 1
    flows.into[kernels[same_id][first]] = calls + 1


def _link_requests(trace: Trace, flows: Flows) -> None:
    """Link the slices of one request where it passes from one process to another."""
    events = trace.events
    rows = np.flatnonzero((events.request != 0) & np.isin(events.kind, [EventKind.RANGE, EventKind.ASYNC]))
    rows = rows[np.lexsort((rows, events.start_ns[rows], events.request[rows]))]
    pid = trace.tracks.pids()
    before, after = rows[:-1], rows[1:]
    hops = (events.request[before] == events.request[after]) & (pid[events.track[before]] != pid[events.track[after]])
    flows.out[before[hops]] = before[hops] + 1
    flows.into[after[hops]] = before[hops] + 1
