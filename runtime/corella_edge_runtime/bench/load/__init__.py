"""An open-loop load on a server, from a process of its own: when requests leave does not depend on the answers."""
