"""Raw logs to events, each in its source's own clock. One module a source, named as its probe."""
