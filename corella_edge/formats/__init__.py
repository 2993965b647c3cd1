"""Bytes and texts of files: encodings, JSON, JSON lines, CSV."""
