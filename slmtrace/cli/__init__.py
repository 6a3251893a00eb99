"""The command line: the only place that knows click, colour, stdout and exit codes."""
