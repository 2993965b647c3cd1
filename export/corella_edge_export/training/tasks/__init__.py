"""What each stage trains: the base model, the LLM, both together."""
