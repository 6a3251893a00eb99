"""Request ids. vLLM decorates the id that a client sends; every process must come back to the same one.

A client's X-Request-Id `abc` becomes `cmpl-abc` (chatcmpl-, ...), for the i-th prompt of a completion `cmpl-abc-0`, and
inside the engine `cmpl-abc-0-1a2b3c4d` (vllm/v1/engine/input_processor.py, assign_request_id).
"""

from __future__ import annotations

import os

# vllm/entrypoints/openai/*/serving.py
_PREFIXES = ("cmpl-", "chatcmpl-", "resp_", "resp-", "embd-", "pool-", "generate-tokens-", "generate-")
_HEX = frozenset("0123456789abcdef")
_SUFFIX_LENGTH = 8
_MAX_KNOWN = 4096

_known: dict[str, str] = {}


def from_outer(request_id: str) -> str:
    """Return the client's request id, given the one that the front end gives to the engine."""
    if request_id.isdigit():  # the offline LLM counts its requests
        return f"vllm-{request_id}"
    for prefix in _PREFIXES:
        if request_id.startswith(prefix):
            bare = request_id[len(prefix) :]
            if prefix == "cmpl-":
                stem, _, number = bare.rpartition("-")
                # The further prompts of one completion are requests of their own.
                return stem if stem and number == "0" else bare
            return bare
    return request_id


def from_inner(request_id: str) -> str:
    """Return the client's request id, given the one that the engine uses."""
    known = _known.get(request_id)
    if known is None:
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        known = _known[request_id] = from_outer(_without_suffix(request_id))
    return known


def _without_suffix(request_id: str) -> str:
    index, _, rest = request_id.partition("_")
    if index.isdigit() and rest:  # one of the n samples of a request
        request_id = rest
    stem, _, suffix = request_id.rpartition("-")
    is_random = stem and len(suffix) == _SUFFIX_LENGTH and _HEX.issuperset(suffix)
    if not is_random or os.environ.get("VLLM_DISABLE_REQUEST_ID_RANDOMIZATION", "0") not in ("", "0"):
        return request_id
    return stem


def only(request_ids: list[str]) -> str:
    """Return the one request that several ids are about, '' if there are more or none."""
    distinct = set(request_ids)
    return from_inner(distinct.pop()) if len(distinct) == 1 else ""
