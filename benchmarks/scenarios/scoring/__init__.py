"""The parts of benchmarks/llm_scoring.py: this scorer and its peers, side by side."""
