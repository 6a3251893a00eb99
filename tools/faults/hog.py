"""Keep a CPU busy until killed, or until the parent is gone."""

from __future__ import annotations

import os

if __name__ == "__main__":
    parent = os.getppid()
    while os.getppid() == parent:
        for _ in range(1_000_000):
            pass
