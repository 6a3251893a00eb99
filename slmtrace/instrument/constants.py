"""The numbers of capture/layout.py that recording needs, without the enum and typing imports that they cost there.

Importing enum, typing and json would add 20 ms to the start of every process of the target. A test compares each number
with capture/layout.py, which is their source.
"""

from __future__ import annotations

HEADER_BYTES = 4096
LOST_OFFSET = HEADER_BYTES - 64
MAGIC = "slmtrace-raw/1"

LAYOUT = "slot"
LAYOUT_VERSION = 1
FIELDS = (
    ("start_ns", "Q"),
    ("end_ns", "Q"),
    ("a", "q"),
    ("b", "q"),
    ("tid", "I"),
    ("name", "I"),
    ("id", "I"),
    ("used", "H"),
    ("kind", "H"),
)
RECORD_FORMAT = "<" + "".join(code for _, code in FIELDS)
RECORD_BYTES = 48

TEXT_BYTES = 40
TEXT_FORMAT = "<40sIHH"  # text in place of the fields before `id`, then id, used, kind

EMPTY = 0
TEXT = 1
RANGE = 2
BEGIN = 3
MARK = 4
ASYNC = 5
IMPORT = 6
DLOPEN = 7
GENERATOR = 8
NOTE = 9
RUSAGE = 14

STEP = "step"

MARK_READY = "ready"
MARK_REQUEST_START = "request_start"
MARK_FIRST_TOKEN = "first_token"
MARK_REQUEST_END = "request_end"
