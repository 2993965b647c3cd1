"""The heavy half: from interactions to a verified bundle (torch, transformers, peft, optimum)."""

import os

# optimum loads ONNX Runtime, which would note this machine and events for Microsoft: see the runtime's crm.py.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
