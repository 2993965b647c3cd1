"""The LLM behind one contract (`backend.LlmBackend`). The only folder that knows llama_cpp."""
