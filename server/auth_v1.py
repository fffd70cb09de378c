"""The few calls of 2020's authentication API that its tools make before anything else (§4.10 of the protocol).

There is nothing to log in to: the answers say so in the form the tools understand.
"""

from __future__ import annotations

from aiohttp import web

from server.middleware import IDENTITY, reply, server_url


def auth_routes() -> list[web.RouteDef]:
    """Return the routes."""
    return [
        web.get("/auth/api/v1/server/oauth_config", oauth_config),
        web.get("/auth/api/v1/accounts/self", accounts_self),
    ]


async def oauth_config(request: web.Request) -> web.Response:
    return reply(
        {
            "additional_client_ids": [],
            "client_id": None,
            "client_not_so_secret": None,
            "primary_url": server_url(request),
            "token_server_url": None,
        }
    )


async def accounts_self(request: web.Request) -> web.Response:
    return reply({"identity": request[IDENTITY].name, "ip": request.remote})
