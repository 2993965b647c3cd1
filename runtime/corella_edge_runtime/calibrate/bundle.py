"""The new bundle: the old one's files, and a routing.json with the fitted policy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from corella_edge.atomic import new_folder
from corella_edge.bundle.artefact import ROUTING, Bundle
from corella_edge.judge import Json
from corella_edge.routing.calibrated import Calibrated, Wanted, routing_json
from corella_edge.routing.routing_file import parse_routing
from corella_edge_runtime.site.successor import link_files, next_version, parent_of, seal_next

MARK = "+policy."


@contextmanager
def written(
    bundle: Bundle, found: Calibrated, wanted: Wanted, out: Path, check: Callable[[Path], None] = lambda folder: None
) -> Iterator[str]:
    """The label of the bundle `out`, which appears whole when the block ends, or not at all. `check` is called with it
    before.

    Raises:
        InputError: `out` is taken or cannot be written. BundleError: a file of `bundle` was changed meanwhile.
    """
    routing = routing_json(bundle.json(ROUTING), found, wanted)
    parse_routing(routing)  # what it cannot read, no server could
    source = " ".join(part["sha256"] for part in (routing["calibrated"]["parts"][name] for name in ("fit", "held_out")))
    parent = parent_of(bundle)
    text = json.dumps(routing, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    version = next_version(bundle.manifest.version, MARK, parent["manifest_sha256"], f"{source} {text}")
    about: Json = {"calibrated": {"parent": parent, "share": found.share, "parts": routing["calibrated"]["parts"]}}
    with new_folder(out) as folder:
        link_files(bundle, folder, {ROUTING})
        (folder / ROUTING).write_text(text, "utf-8")
        seal_next(bundle, folder, version, about, {ROUTING})
        check(folder)
        yield f"{bundle.manifest.name}@{version}"
