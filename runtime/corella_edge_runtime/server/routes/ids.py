"""Ids that stand in a path, as the client sent them."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request

from corella_edge.errors import InputError
from corella_edge.messages import MAX_ID_CHARS
from corella_edge_runtime.server.describing import Json

PATH_ID: Json = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "UTF-8 in percent-encoding; a slash as %2F.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS},
}


class _Anything(StringConvertor):
    """Ids may hold slashes, as %2F, and line ends: a path is matched after its percent signs are resolved."""

    regex = "(?s:.*)"


register_url_convertor("anything", _Anything())
ANY_ID = "{id:anything}"  # in the path of a route


def id_in_path(request: Request, before: bytes, after: bytes = b"", *, of: str) -> str:
    """The id between two parts of the path as it was sent: servers decode paths leniently, so that two ids could become
    one. `of`: whose id it is, for errors.

    Raises:
        HTTPException: 404, the path goes on after the id, even if only by a slash: no id is taken for another.
        InputError: it is not UTF-8.
    """
    raw = bytes(request.scope["raw_path"]).partition(before)[2].removesuffix(after)
    if b"/" in raw:
        raise HTTPException(404, "no such path; an id is one segment of it, a slash in an id is sent as %2F")
    try:
        return unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{of} id: not UTF-8 in percent-encoding") from None
