"""What the analysis speaks of: taxonomy, events, tracks, windows, segments, reports. Plain data, no input or output."""
