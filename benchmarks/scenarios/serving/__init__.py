"""The parts of benchmarks/http_serving.py, a scenario a file."""
