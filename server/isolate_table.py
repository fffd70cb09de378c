"""The isolate API of 2020 as data: its calls and messages, from which routes and its discovery document are made."""

from __future__ import annotations

from collections.abc import Mapping

from server.api_table import Call
from server.discovery import Api

_NAMESPACE = {"compression": "string", "digest_hash": "string", "namespace": "string"}
MESSAGES: Mapping[str, Mapping[str, str]] = {
    "Namespace": _NAMESPACE,
    "Digest": {"digest": "string", "is_isolated": "bool", "size": "int64"},
    "DigestCollection": {"items": "Digest[]", "namespace": "Namespace"},
    "PreuploadStatus": {"gs_upload_url": "string", "index": "int64", "upload_ticket": "string"},
    "UrlCollection": {"items": "PreuploadStatus[]"},
    "StorageRequest": {"content": "bytes", "upload_ticket": "string"},
    "FinalizeRequest": {"upload_ticket": "string"},
    "PushPing": {"ok": "bool"},
    "RetrieveRequest": {"digest": "string", "namespace": "Namespace", "offset": "int64"},
    "RetrievedContent": {"content": "bytes", "url": "string"},
    "ServerDetails": {"server_version": "string"},
}
CALLS = (
    Call("isolateservice.server_details", "GET", "server_details", "Version of the server.", (), None, "ServerDetails"),
    Call(
        "isolateservice.preupload",
        "POST",
        "preupload",
        "Which of up to 1000 blobs are missing, and where to send each of these.",
        (),
        "DigestCollection",
        "UrlCollection",
    ),
    Call(
        "isolateservice.store_inline", "POST", "store_inline", "Store a small blob.", (), "StorageRequest", "PushPing"
    ),
    Call(
        "isolateservice.finalize_gs_upload",
        "POST",
        "finalize_gs_upload",
        "Say that a blob was sent in bulk.",
        (),
        "FinalizeRequest",
        "PushPing",
    ),
    Call("isolateservice.retrieve", "POST", "retrieve", "Fetch a blob.", (), "RetrieveRequest", "RetrievedContent"),
)
ISOLATE = Api("isolateservice", "v1", "Isolate Server", "Blobs by what they contain.", CALLS, MESSAGES)
