"""The artefact: its files, its manifest, its signature."""
