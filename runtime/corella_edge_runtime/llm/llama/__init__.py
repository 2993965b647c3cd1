"""llama.cpp: the only folder that knows llama_cpp."""
