"""The LLM behind one contract (`contract.backend.LlmBackend`). `opening` puts it together."""

import os

# An empty name means none, as scripts and unit files leave it; llama_cpp would take it for the working directory.
if os.environ.get("LLAMA_CPP_LIB_PATH") == "":
    del os.environ["LLAMA_CPP_LIB_PATH"]
