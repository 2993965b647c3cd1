"""The heavy half: from interactions to a verified bundle (torch, transformers, peft, optimum)."""

import os

# optimum loads ONNX Runtime, which would note this machine and events for Microsoft: see the runtime's crm.py.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# torch's OpenMP threads meet at hundreds of barriers a step. libgomp by itself lets them wait awake for milliseconds:
# on a core that another process wants, each barrier then costs a time slice. So they wait awake for about as long as
# waking takes, and sleep after that. libgomp reads this once, when torch is loaded.
SPIN = "3000"
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
