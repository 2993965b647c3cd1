"""The machine itself: what llama.cpp is built with for it."""
