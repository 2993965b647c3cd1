"""For all tests: property tests do not fail because the machine is busy, and torch's threads do not wait awake."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

import corella_edge_export  # noqa: F401 - before any test imports torch: libgomp reads its setting once

settings.register_profile("corella", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("corella")
