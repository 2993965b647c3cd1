"""Readers of publishers' files, one a module."""
