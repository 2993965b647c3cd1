"""`corella-edge benchmark`: latency, throughput and quality of a bundle at each routed share, on this machine."""
