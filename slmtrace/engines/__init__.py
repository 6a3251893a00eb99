"""The built-in runs, and the probe models that they run."""
