"""The REST API for clients in the words of OpenAPI 3. Pure, made from the table of calls; knows no request."""

from __future__ import annotations

from typing import Any

from server.api_messages import ENUMS, MESSAGES, SIMPLE
from server.api_table import ALL_CALLS, Call, Parameter

Schema = dict[str, Any]

_SIMPLE: dict[str, Schema] = {
    "string": {"type": "string"},
    "bytes": {"type": "string", "format": "byte"},
    "ts": {"type": "string", "description": "UTC without zone: 2020-01-02T03:04:05.123456"},
    "int64": {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"},
    "bool": {"type": "boolean"},
    "float": {"type": "number"},
    "object": {"type": "object"},
}
_LIMITS = {"limit": (1, 1000), "offset": (0, 2**62), "length": (0, 2**62)}


def description(version: str, bases: tuple[str, ...]) -> Schema:
    """Return the OpenAPI document."""
    paths: dict[str, Any] = {}
    for call in ALL_CALLS:
        paths.setdefault("/" + call.path, {})[call.method.lower()] = _operation(call)
    schemas: dict[str, Schema] = {name: {"type": "string", "enum": list(values)} for name, values in ENUMS.items()}
    for name, fields in MESSAGES.items():
        schemas[name] = {"type": "object", "properties": {field: schema(kind) for field, kind in fields.items()}}
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Swarming",
            "version": version,
            "description": (
                "Tasks and bots. 64-bit integers are strings in replies, and may be either in requests; unset fields "
                "and empty lists are left out of replies; unknown fields and parameters are ignored."
            ),
        },
        "servers": [{"url": base} for base in bases],
        "paths": paths,
        "components": {"schemas": schemas},
    }


def schema(kind: str) -> Schema:
    """Return the schema of a kind of field."""
    if kind.endswith("[]"):
        return {"type": "array", "items": schema(kind[:-2])}
    return dict(_SIMPLE[kind]) if kind in SIMPLE else {"$ref": f"#/components/schemas/{kind}"}


def _operation(call: Call) -> Schema:
    operation: Schema = {
        "operationId": call.name,
        "tags": [call.resource],
        "summary": call.summary,
        "parameters": [_parameter(one) for one in (*call.all_parameters, Parameter("fields"))],
        "responses": {
            "200": _content(call.reply, "What was asked for; `fields` selects parts of it"),
            "default": _content("Error", "What went wrong, with a reason"),
        },
    }
    if call.method == "POST":
        body = {"$ref": f"#/components/schemas/{call.body}"} if call.body else {"type": "object"}
        operation["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return operation


def _content(message: str, text: str) -> Schema:
    body = {"$ref": f"#/components/schemas/{message}"}
    return {"description": text, "content": {"application/json": {"schema": body}}}


def _parameter(one: Parameter) -> Schema:
    kind = {"type": "integer", "format": "int64"} if one.kind == "int64" else schema(one.kind)
    if one.name in _LIMITS:
        kind = {**kind, "minimum": _LIMITS[one.name][0], "maximum": _LIMITS[one.name][1]}
    return {
        "name": one.name,
        "in": one.place,
        "required": one.required,
        "schema": {"type": "array", "items": kind} if one.repeated else kind,
    }
