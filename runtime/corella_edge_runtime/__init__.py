"""The light half: opens a bundle and scores requests (numpy, ONNX Runtime, llama.cpp; never torch)."""
