"""The box: its cores and clock, the plan for a bundle, `tune`, `doctor`, and the build of llama.cpp."""
