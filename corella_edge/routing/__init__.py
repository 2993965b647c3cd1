"""Which samples the LLM is asked about, and how two scores become one. Pure numpy; time is passed in."""
