"""What a bundle is worth on held-out rows: every row scored once by each model, every share derived from that."""
