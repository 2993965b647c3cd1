"""An open-loop load on a server in a process of its own."""
