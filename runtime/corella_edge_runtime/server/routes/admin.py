"""Routes for the operator: what is served now, and reading a site's deployment at once.

No route drains the server: SIGTERM does, and ends the process (docs/serve.md).
"""

from __future__ import annotations

from dataclasses import asdict

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from corella_edge_runtime.server.answers import LoadedVersion, RefusedVersion, ServedVersions, json_answer
from corella_edge_runtime.server.describing import Described, answer, operation, ref
from corella_edge_runtime.server.fleet import Member
from corella_edge_runtime.server.service import Service


def routes(service: Service) -> list[Route]:
    admin = _Admin(service)
    return [
        Route("/admin/deployment", admin.deployment, methods=["GET"]),
        Route("/admin/reload", admin.reload, methods=["POST"]),
    ]


class _Admin:
    def __init__(self, service: Service) -> None:
        self.service = service

    async def deployment(self, _: Request) -> Response:
        return json_answer(described(self.service))

    async def reload(self, _: Request) -> Response:
        """Answers when the site's file has been read and what it names is loaded or refused."""
        if self.service.follower is None:
            raise HTTPException(409, "one bundle is served here, which does not change; `serve SITE` follows a site")
        await self.service.follower.reload()
        return json_answer(described(self.service))


def described(service: Service) -> ServedVersions:
    """What is served, and how far a followed site is dealt with."""
    fleet, follower = service.fleet, service.follower
    ending = [member for member in fleet.members if member is not fleet.live and member is not fleet.canary]
    refused = follower.state.refused if follower else None
    return ServedVersions(
        site=follower is not None,
        serial=follower.state.serial if follower else None,
        loading=follower.loading if follower else False,
        live=_member(fleet.live, 1.0 - fleet.share),
        canary=_member(fleet.canary, fleet.share),
        ending=[found for member in ending if (found := _member(member, 0.0))],
        refused=RefusedVersion(**asdict(refused)) if refused else None,
    )


def _member(member: Member | None, share: float) -> LoadedVersion | None:
    if member is None:
        return None
    return LoadedVersion(
        version=member.version, bundle=member.label, since=member.since.isoformat(timespec="milliseconds"), share=share,
        in_flight=member.in_flight,
    )  # fmt: skip


_SHOWN = answer("What is served.", ref("ServedVersions"))
OPENAPI = Described(
    {
        "/admin/deployment": {
            "get": operation(
                "deployment", "Which versions are loaded, for what share of the users, and since when.", {"200": _SHOWN}
            )
        },
        "/admin/reload": {
            "post": operation(
                "reload",
                "Read the site's deployment.json now and try again what was refused; answers when that is done.",
                {"200": _SHOWN, "409": answer("One bundle is served, which does not change.")},
            )
        },
    },
    (ServedVersions,),
)
