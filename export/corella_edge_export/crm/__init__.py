"""The base model: its families, what is fitted for it on training rows, and its export to ONNX."""
