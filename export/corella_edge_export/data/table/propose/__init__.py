"""What `corella-edge init` sees in a person's files: bytes, dialect, columns, roles; each decision is one pure function."""
