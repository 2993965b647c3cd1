"""`corella-edge tune`: measure what runs a bundle best on this machine. Nothing is written into the bundle."""
