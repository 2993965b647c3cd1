"""What the server reaches under load: an open-loop generator, and a scenario a file."""
