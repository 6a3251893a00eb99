"""Several recordings with one question: is it slower than before, is this node fit, where does the curve bend."""
