"""Bytes that are no HTTP get an answer in the shape of all others: JSON with a reason.

Knows no route: what arrives here never became a request. The client of 2020 retries a reply that is no JSON for
minutes, and a person reading one wants to know what was wrong.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from aiohttp import web

from server.middleware import reply

log = logging.getLogger("server")


class JsonHandler(web.RequestHandler):
    """One connection."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to what could not be read; the connection is closed after it."""
        if request.writer.output_size > 0:
            raise ConnectionResetError("The reply has begun")
        log.debug("Not HTTP, from %s: %s", request.remote, exc)
        phrase = HTTPStatus(status).phrase
        lines = (message or str(exc or "") or phrase).strip().splitlines()
        text = f"{phrase}: {lines[0].rstrip(':')}" if status < 500 and lines else phrase
        response = reply({"error": {"code": phrase.lower().replace(" ", "_"), "message": text}}, status)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Keep the traceback for what is our fault; a body that cannot be read has had its answer."""
        error = kwargs.get("exc_info")
        if isinstance(error, web.RequestPayloadError):
            log.debug("A body could not be read: %s", " ".join(str(error).split()))
        else:
            super().log_exception(*args, **kwargs)


class JsonServer(web.Server):
    """Makes a handler for each connection."""

    def __call__(self) -> JsonHandler:
        return JsonHandler(self, loop=self._loop, **self._kwargs)


class JsonRunner(web.AppRunner):
    """Runs an application on `JsonServer`."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = JsonServer  # the framework has no setting for it
        return server
