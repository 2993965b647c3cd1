"""The parts of benchmarks/template.py: our prompt and the paper's, trained alike."""
