"""The Yes/No model: checkpoints in, tokenizer, training sequences, GGUF out."""
