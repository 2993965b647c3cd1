"""`corella-edge calibrate`: a routing policy fitted on a log, its report, and the bundle that carries it."""
