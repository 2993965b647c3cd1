"""Which items of a bundle a request ranks: filters, what was seen, what is available, popular and similar items."""
