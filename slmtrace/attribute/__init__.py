"""From a trace and its windows to segments: evidence per thread, the critical path, causes, sums."""
