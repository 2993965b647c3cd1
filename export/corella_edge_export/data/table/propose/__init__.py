"""What `corella-edge init` sees in a person's files: bytes, dialect, columns, roles. A decision is a pure function."""
