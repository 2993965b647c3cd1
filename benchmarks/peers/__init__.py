"""Other ways to the same answers, and ceilings: what the figures are held against."""
