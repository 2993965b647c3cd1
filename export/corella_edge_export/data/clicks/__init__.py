"""Decisions and the clicks on them, joined to the next table of events."""
