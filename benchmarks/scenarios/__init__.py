"""The parts of scenarios that are more than one file; the scenarios themselves are the scripts above."""
