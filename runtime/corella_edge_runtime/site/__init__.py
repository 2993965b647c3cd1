"""Versions of bundles on one box: deployment, roll-back, description, catalogue updates."""
