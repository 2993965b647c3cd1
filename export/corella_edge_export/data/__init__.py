"""Data sets: readers of publishers' files, the prepared folder, and how training and evaluation read it."""
