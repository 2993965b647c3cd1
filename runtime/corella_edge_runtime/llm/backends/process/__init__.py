"""The LLM in a supervised process of its own."""
