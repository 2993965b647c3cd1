"""From a finished run to a verified bundle."""
