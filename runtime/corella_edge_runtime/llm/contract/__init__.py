"""What all of the LLM side speaks: prompts, answers, backends, settings, costs. Knows no llama_cpp."""
