"""HTTP around an engine. `run.run` serves; `app.build_app` is the ASGI application for embedding and tests."""
