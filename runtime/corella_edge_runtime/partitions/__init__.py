"""Requests and answers as Parquet: a table in partitions, scored one by one, here or by the workers of a cluster."""
