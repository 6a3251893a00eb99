"""From attributed windows to a verdict: what physics allows, what cost more than that, and what to do about it."""
