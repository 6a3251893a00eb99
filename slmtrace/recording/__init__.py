"""What the recorder does besides running probes: the target's signals, clocks, accounts, page cache, progress."""
