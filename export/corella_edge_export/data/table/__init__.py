"""A person's own table, described by a `data.toml`, into prepared data."""
