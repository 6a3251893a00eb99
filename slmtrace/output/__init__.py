"""Outputs: the Perfetto timeline, text, Markdown and JSON. Each is a pure function of a report (and its trace)."""
