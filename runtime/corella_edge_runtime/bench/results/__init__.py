"""What was measured, and the figures made of it: slices, histograms, intervals, the law, `benchmark.json`. Pure."""
