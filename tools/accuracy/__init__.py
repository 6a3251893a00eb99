"""Hold verdicts against known truths: clean and injected runs of the same command, interleaved, compared."""
