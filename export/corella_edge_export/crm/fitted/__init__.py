"""What is fitted on training rows alone: the schema, numbers and words of items, levels of users."""
