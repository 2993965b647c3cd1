"""Who computes the answers: a thread here, a process of its own, a server elsewhere. `table` has them by name."""
