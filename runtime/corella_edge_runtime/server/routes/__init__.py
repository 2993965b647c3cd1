"""The routes, each beside its OpenAPI description."""
