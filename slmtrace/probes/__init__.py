"""The sources of evidence: one module a source. Each says whether it can run here, starts, stops and accounts."""
