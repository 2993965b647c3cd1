"""A load on `corella-edge serve`, for the scenarios; the load generator is the package's, `bench.load`."""
