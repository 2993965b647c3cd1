"""A result as a page, as Markdown and as plots. Nothing is measured here."""
