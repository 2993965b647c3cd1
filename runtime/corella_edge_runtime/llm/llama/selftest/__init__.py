"""Whether llama.cpp computes correctly on this machine, found out before it is trusted."""
