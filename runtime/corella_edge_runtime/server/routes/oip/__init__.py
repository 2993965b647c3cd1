"""The Open Inference Protocol (KServe, Triton) at `/v2`: models `rank`, `crm` and `llm`, in JSON and binary form."""
