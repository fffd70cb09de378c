"""Google's discovery of APIs: which there are, and what each can be asked.

Knows no handler: an API brings its table of calls and messages. Addresses echo the scheme and host that the caller
used, because clients read them verbatim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from isolate.errors import NotFound
from server.api_messages import ENUMS, SIMPLE
from server.api_table import Call
from server.middleware import reply, server_url

BASE = "/_ah/api/discovery/v1/apis"
_ICON = "https://www.gstatic.com/images/branding/product/1x/googleg_{}dp.png"
_ICONS = {"x16": _ICON.format(16), "x32": _ICON.format(32)}
_SIMPLE: dict[str, dict[str, str]] = {
    "string": {"type": "string"},
    "bytes": {"type": "string", "format": "byte"},
    "ts": {"type": "string", "format": "date-time"},
    "int64": {"type": "string", "format": "int64"},
    "bool": {"type": "boolean"},
    "float": {"type": "number", "format": "double"},
    "object": {"type": "any"},
}


@dataclass(frozen=True, slots=True)
class Api:
    """One API: served at `/_ah/api/<name>/<version>/`."""

    name: str
    version: str
    title: str
    description: str
    calls: Sequence[Call]
    messages: Mapping[str, Mapping[str, str]]


def discovery_routes(apis: Sequence[Api]) -> list[web.RouteDef]:
    """Return the routes that tell of `apis`."""
    by_key = {(api.name, api.version): api for api in apis}

    async def listed(request: web.Request) -> web.Response:
        items = [_item(api, server_url(request)) for api in apis]
        return reply({"kind": "discovery#directoryList", "discoveryVersion": "v1", "items": items})

    async def described(request: web.Request) -> web.Response:
        name, version = request.match_info["name"], request.match_info["version"]
        if (name, version) not in by_key:
            raise NotFound(f"There is no API {name}:{version}")
        return reply(document(by_key[name, version], server_url(request)))

    return [web.get(BASE, listed), web.get(BASE + "/{name}/{version}/rest", described)]


def _item(api: Api, root: str) -> dict[str, Any]:
    return {
        "kind": "discovery#directoryItem",
        "id": f"{api.name}:{api.version}",
        "name": api.name,
        "version": api.version,
        "title": api.title,
        "description": api.description,
        "discoveryRestUrl": f"{root}{BASE}/{api.name}/{api.version}/rest",
        "discoveryLink": f"./apis/{api.name}/{api.version}/rest",
        "icons": _ICONS,
        "preferred": True,
    }


def document(api: Api, root: str) -> dict[str, Any]:
    """Return the description of one API for a caller that reaches this server as `root`."""
    service = f"{api.name}/{api.version}/"
    resources: dict[str, Any] = {}
    for call in api.calls:
        methods = resources.setdefault(call.resource, {"methods": {}})["methods"]
        methods[call.name.partition(".")[2]] = _method(api, call)
    return {
        "kind": "discovery#restDescription",
        "discoveryVersion": "v1",
        "id": f"{api.name}:{api.version}",
        "name": api.name,
        "version": api.version,
        "title": api.title,
        "description": api.description,
        "icons": _ICONS,
        "protocol": "rest",
        "auth": {"oauth2": {"scopes": {}}},
        "rootUrl": f"{root}/_ah/api/",
        "servicePath": service,
        "basePath": f"/_ah/api/{service}",
        "baseUrl": f"{root}/_ah/api/{service}",
        "batchPath": "batch",
        "parameters": {"fields": {"type": "string", "location": "query", "description": "Parts of the reply."}},
        "schemas": {
            name: {
                "id": name,
                "type": "object",
                "properties": {field: _schema(kind) for field, kind in fields.items()},
            }
            for name, fields in api.messages.items()
        },
        "resources": resources,
    }


def _method(api: Api, call: Call) -> dict[str, Any]:
    method: dict[str, Any] = {
        "id": f"{api.name}.{call.name}",
        "httpMethod": call.method,
        "path": call.path,
        "description": call.summary,
        "parameters": {
            one.name: _schema(one.kind)
            | {"location": one.place}
            | ({"required": True} if one.required else {})
            | ({"repeated": True} if one.repeated else {})
            for one in call.all_parameters
        },
        "response": {"$ref": call.reply},
        "scopes": [],
    }
    order = [one.name for one in call.all_parameters if one.required]
    return (
        method | ({"parameterOrder": order} if order else {}) | ({"request": {"$ref": call.body}} if call.body else {})
    )


def _schema(kind: str) -> dict[str, Any]:
    if kind.endswith("[]"):
        return {"type": "array", "items": _schema(kind[:-2])}
    if kind in ENUMS:
        return {"type": "string", "enum": list(ENUMS[kind])}
    return dict(_SIMPLE[kind]) if kind in SIMPLE else {"$ref": kind}
