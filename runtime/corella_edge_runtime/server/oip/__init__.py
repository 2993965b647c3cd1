"""The Open Inference Protocol (KServe, Triton) at `/v2`, JSON and binary: tensors.py, models.py, routes.py, openapi.py."""
