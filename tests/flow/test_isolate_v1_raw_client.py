"""The isolate API of 2020, asked on sockets by a client that was written from the protocol alone."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.flow.raw_isolate import BASE, Client, Reply, Wire
from tests.flow.servers import ServerProcess, running_server

NAMESPACES = ("default", "default-gzip", "sha256-deflate", "sha512-flat")
MIB = 1 << 20


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests that need none for themselves; each uses contents of its own."""
    with running_server(tmp_path_factory.mktemp("server") / "data") as process:
        yield process


@pytest.fixture(params=NAMESPACES)
def client(shared: ServerProcess, request: pytest.FixtureRequest) -> Client:
    return Client(shared.url, request.param)


def noise(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


def test_the_vectors_of_the_protocol(shared: ServerProcess) -> None:
    client = Client(shared.url, "default-gzip")
    tree = (
        b'{"algo":"sha-1","files":{"a.txt":{"h":"f572d396fae9206628714fb2ce00f72e94f2258f","m":416,"s":6},"bin/x":{"h":'
        b'"b2b62c101a156f5f12dd7197cf7ae9424164b115","m":488,"s":18},"empty":{"h":'
        b'"da39a3ee5e6b4b0d3255bfef95601890afd80709","m":384,"s":0},"lnk":{"l":"a.txt"},"\\u00e9.txt":{"h":'
        b'"ab0680a89434e6411d9838b675ea87c2c11c379e","m":416,"s":2}},"version":"1.6"}'
    )
    assert client.digest(tree) == "af6898aa06b8c92a0a77458ca9dbaef1ac5989be"
    for content, text in ((b"", "eNoDAAAAAAE="), (b"hello\n", "eNrLSM3JyecCAAhLAh8="), (b"n\n", "eNrL4wIAAOgAeQ==")):
        (item,) = client.preupload([content])
        reply = client.post("store_inline", {"content": text, "upload_ticket": item["upload_ticket"]})
        assert (reply.status, reply.json()) == (200, {"ok": True})
        assert client.retrieve(client.digest(content)).json() == {"content": text}
    (item,) = client.preupload([tree], is_isolated=True)
    client.push(item, tree, level=6)
    assert client.fetch(tree) == (False, zlib.compress(tree, 6))
    flat = Client(shared.url, "default")
    (item,) = flat.preupload([b""])
    assert flat.store_inline(item["upload_ticket"], b"").json() == {"ok": True}
    assert flat.retrieve(flat.digest(b"")).json() == {"content": ""}


def test_items_go_in_and_come_back_as_they_were_sent(client: Client) -> None:
    contents = [noise(f"{client.namespace} {size}", size) for size in (1, 500, 501, 3000, 70_000, 5 * MIB)]
    items = client.preupload(contents)
    assert [item["index"] for item in items] == ["0", "1", "2", "3", "4", "5"]
    assert ["gs_upload_url" in item for item in items] == [False, False, True, True, True, True]
    sent = [client.push(item, content, level=1) for item, content in zip(items, contents, strict=True)]
    assert client.preupload(contents) == []
    for content, data in zip(contents, sent, strict=True):
        assert client.fetch(content) == (len(content) > 500, data)
    assert len(client.preupload([contents[0], b"new " + contents[0], contents[1]])) == 1


def test_isolated_files_travel_inside_the_messages(client: Client) -> None:
    content = json.dumps({"files": {f"{client.namespace}/{n}": {"h": "f" * 40, "s": 1} for n in range(3000)}}).encode()
    assert 100_000 < len(content) <= 512_000
    (item,) = client.preupload([content], is_isolated=True)
    assert "gs_upload_url" not in item
    data = client.push(item, content)
    assert client.fetch(content) == (False, data)
    half = base64.b64decode(client.retrieve(client.digest(content), len(data) // 2).json()["content"])
    assert half == data[len(data) // 2 :]
    assert client.retrieve(client.digest(content), len(data)).json() == {"content": ""}
    for offset in (-1, len(data) + 1):
        reply = client.retrieve(client.digest(content), offset)
        assert (reply.status, reply.error()) == (
            400,
            f"Invalid offset {offset}. Offset must be between 0 and content length.",
        )


def test_what_is_stored_here_is_there_for_clients_of_today(client: Client) -> None:
    for size in (100, 9000):
        content = noise(f"today {client.namespace}", size)
        (item,) = client.preupload([content])
        client.push(item, content)
        reply = client.request("GET", f"/cas/v2/{client.namespace}/blob/{client.digest(content)}")
        assert (reply.status, reply.body) == (200, content)
        raw = bytes.fromhex(client.digest(content))
        absent = bytes(len(raw))
        reply = client.request("POST", f"/cas/v2/{client.namespace}/missing", raw + absent)
        assert (reply.status, reply.body) == (200, absent)


def test_many_at_once(client: Client) -> None:
    """Eight clients send overlapping sets over and over; whoever asks afterwards gets exactly what was sent."""
    contents = [noise(f"many {client.namespace} {number}", 37 * (number + 1)) for number in range(40)]

    def run(worker: int) -> None:
        mine = contents[worker * 3 : worker * 3 + 20]
        for item in client.preupload(mine):
            client.push(item, mine[int(item["index"])])
            client.push(item, mine[int(item["index"])])
        assert client.preupload(mine) == []
        for content in mine:
            assert client.decode(client.fetch(content)[1]) == content

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))
    stored = contents[: 7 * 3 + 20]
    assert client.preupload(stored) == []


def test_one_connection_serves_many_calls(client: Client) -> None:
    content = noise(f"one connection {client.namespace}", 2000)
    (item,) = client.preupload([content])
    data = client.encode(content)
    with Wire(*client.address) as wire:
        put = wire.request("PUT", urlsplit(item["gs_upload_url"]).path, data)
        body = json.dumps({"upload_ticket": item["upload_ticket"]}).encode()
        done = wire.request("POST", BASE + "finalize_gs_upload", body)
        details = wire.request("GET", BASE + "server_details")
        missing = wire.request("GET", BASE + "nothing")
    assert (put.status, done.status, details.status, missing.status) == (200, 200, 200, 404)
    assert isinstance(details.json()["server_version"], str)
    assert missing.error()


def test_present_is_who_has_the_digest_by_either_address(client: Client) -> None:
    """A size is only announced; and every call is there without `/_ah`, too."""
    other = Client(f"http://{client.address[0]}:{client.address[1]}", client.namespace, BASE.removeprefix("/_ah"))
    for size in (300, 3000):
        content = noise(f"either {client.namespace}", size)
        (item,) = other.preupload([content])
        other.push(item, content)
        assert client.preupload([content]) == []
        assert other.fetch(content) == client.fetch(content)
        items = [{"digest": client.digest(content), "size": size + 1}]
        assert client.post("preupload", {"items": items, "namespace": client.described()}).json() == {}


def test_corrupted_content_is_never_stored(client: Client) -> None:
    small, big = noise(f"bad small {client.namespace}", 400), noise(f"bad big {client.namespace}", 4000)
    wrong = client.encode(small[:-1] + bytes([small[-1] ^ 1]))
    (item,) = client.preupload([small])
    reply = client.store_inline(item["upload_ticket"], wrong)
    assert reply.status == 400
    assert "Embedded digest does not match provided data" in reply.error()
    if client.deflates:
        for broken in (small, client.encode(small)[:-2], client.encode(small) + b"!"):
            reply = client.store_inline(item["upload_ticket"], broken)
            assert reply.status == 400
            assert "Data is corrupted: " in reply.error()
    (item,) = client.preupload([big])
    for bad in (client.encode(big[::-1]), client.encode(big)[:-3], b"", zlib.compress(bytes(30 * MIB), 9)):
        reply = client.put(item["gs_upload_url"], bad)
        assert reply.status == 200
        assert reply.headers["x-goog-hash"] == "md5=" + base64.b64encode(hashlib.md5(bad).digest()).decode()
        assert client.retrieve(client.digest(big)).status == 404
        assert client.finalize(item["upload_ticket"]).json() == {"ok": True}, "never a synchronous error"
        assert client.retrieve(client.digest(big)).status == 404
        reply = client.finalize(item["upload_ticket"])  # what was wrong is deleted by now
        assert reply.status == 400
        assert reply.error().startswith("File should be in Google Storage.")
    assert len(client.preupload([small, big])) == 2
    client.push(item, big)
    assert client.decode(client.fetch(big)[1]) == big


def test_an_upload_that_breaks_off_can_be_sent_again(client: Client) -> None:
    content = noise(f"breaks off {client.namespace}", 6 * MIB)
    (item,) = client.preupload([content])
    data = client.encode(content, 1)
    with Wire(*client.address) as wire:
        wire.send_head("PUT", urlsplit(item["gs_upload_url"]).path, {"Content-Length": str(len(data))})
        wire.socket.sendall(data[: 5 * MIB])
    assert client.finalize(item["upload_ticket"]).status == 400
    assert client.retrieve(client.digest(content)).status == 404
    client.push(item, content)
    assert client.decode(client.fetch(content)[1]) == content


def test_tickets_that_were_altered_swapped_or_grew_old(shared: ServerProcess) -> None:
    client = Client(shared.url, "sha256-deflate")
    small, big = noise("ticket small", 300), noise("ticket big", 3000)
    inline, bulk = client.preupload([small, big])
    ticket = inline["upload_ticket"]
    for at in range(0, len(ticket), 7):
        bad = ticket[:at] + ("A" if ticket[at] != "A" else "B") + ticket[at + 1 :]
        assert client.store_inline(bad, client.encode(small)).status == 400
    for bad in ("", ticket[:-1], ticket + "A", "é", "a" * 5000):
        assert client.store_inline(bad, client.encode(small)).error()
    assert client.finalize(ticket).status == 400
    assert client.store_inline(bulk["upload_ticket"], client.encode(big)).status == 400
    url = bulk["gs_upload_url"]
    assert client.put(url[:-1] + ("A" if url[-1] != "A" else "B"), client.encode(big)).status == 400
    assert client.put(url.replace(url.rpartition("/")[2], bulk["upload_ticket"]), client.encode(big)).status == 400
    assert client.request("GET", url).status == 400
    client.push(bulk, big)
    download = client.retrieve(client.digest(big)).json()["url"]
    assert client.put(download, client.encode(big)).status == 400
    assert client.request("GET", download[:-1] + ("A" if download[-1] != "A" else "B")).status == 400

    now_ms = int(json.loads(base64.urlsafe_b64decode(ticket + "==")[1:-32])["_i"])
    for age_s, status in ((4 * 3600 + 60, 400), (4 * 3600 - 600, 200), (-20, 200), (-300, 400)):
        content = noise(f"age {age_s}", 100)
        made = signed(shared.data_dir, client, content, now_ms - 1000 * age_s)
        assert client.store_inline(made, client.encode(content)).status == status
    assert client.preupload([small]), "nothing of all this stored anything"


def test_bulk_urls_grow_old_too(shared: ServerProcess) -> None:
    client = Client(shared.url, "sha512-flat")
    content = noise("old bulk", 3000)
    (item,) = client.preupload([content])
    base = item["gs_upload_url"].rpartition("/")[0]
    fields = base64.urlsafe_b64decode(item["upload_ticket"] + "==")[1:-32]
    now_ms = int(json.loads(fields)["_i"])
    old, fresh = (
        {purpose: signed(shared.data_dir, client, content, now_ms - 1000 * age_s, purpose) for purpose in PURPOSES}
        for age_s in (4 * 3600 + 60, 4 * 3600 - 600)
    )
    assert client.put(f"{base}/{old['put']}", content).status == 400
    assert client.put(f"{base}/{fresh['put']}", content).status == 200
    assert "expired" in client.finalize(old["gs"]).error()
    assert client.finalize(fresh["gs"]).json() == {"ok": True}
    assert "expired" in client.request("GET", f"{base}/{old['get']}").error()
    assert client.request("GET", f"{base}/{fresh['get']}").body == content


PURPOSES = ("put", "gs", "get")


def signed(data_dir: Path, client: Client, content: bytes, issued_ms: int, purpose: str = "datastore") -> str:
    """Make a ticket of any age with the server's own secret."""
    secret = bytes.fromhex((data_dir / "isolate_upload_token").read_text())
    fields = {
        "_i": str(issued_ms), "d": client.digest(content), "i": "0", "n": client.namespace, "s": str(len(content))
    }  # fmt: skip
    public = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    chunks = (b"\x01", public, purpose.encode())
    message = b"".join(len(chunk).to_bytes(8, "big") + chunk for chunk in chunks)
    mac = hmac.new(secret, message, hashlib.sha256).digest()
    return base64.urlsafe_b64encode(b"\x01" + public + mac).rstrip(b"=").decode()


def test_what_makes_no_sense_is_400_and_what_is_not_there_404(shared: ServerProcess) -> None:
    client = Client(shared.url, "default")
    ours = Client(shared.url, "blake3-zstd")
    assert client.post("preupload", {"items": []}).status == 400
    assert client.post("preupload", {"items": [], "namespace": ours.described()}).status == 400
    assert client.post("retrieve", {"namespace": client.described()}).status == 400
    assert client.retrieve("f" * 39).status == 400
    assert client.retrieve("F" * 40).status == 400
    for reply in (client.retrieve("f" * 40), client.request("POST", BASE + "nothing", b"{}")):
        assert reply.status == 404
        assert reply.error()
    reply = client.request("POST", BASE + "retrieve", b"not JSON")
    assert (reply.status, bool(reply.error())) == (400, True)
    items = [{"digest": "f" * 40, "size": 1}] * 1001
    reply = client.post("preupload", {"items": items, "namespace": client.described()})
    assert (reply.status, reply.error()) == (400, "Only up to 1000 items can be looked up at once")
    assert client.request("OPTIONS", BASE + "preupload").status == 200


def test_a_range_of_a_bulk_item(client: Client) -> None:
    content = noise(f"range {client.namespace}", 5 * MIB)
    (item,) = client.preupload([content])
    data = client.push(item, content, level=1)
    url, size = client.retrieve(client.digest(content)).json()["url"], len(data)
    for wanted, start, stop in (
        ("bytes=0-0", 0, 1), ("bytes=100-5000000", 100, 5_000_001), (f"bytes={size - 3}-{size + 9}", size - 3, size),
        ("bytes=4194300-", 4_194_300, size), ("bytes=-7", size - 7, size),
    ):  # fmt: skip
        reply = client.request("GET", url, headers={"Range": wanted})
        assert (reply.status, reply.body == data[start:stop]) == (206, True)
        assert reply.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
    reply = client.request("GET", url, headers={"Range": f"bytes={size}-"})
    assert (reply.status, reply.headers["content-range"]) == (416, f"bytes */{size}")
    for whole in ({"Range": "lines=1-2"}, {"Range": "bytes=1-2,5-6"}, {"Range": "bytes=1-2", "If-Range": '"x"'}):
        reply = client.request("GET", url, headers=whole)
        assert (reply.status, reply.body == data) == (200, True)


def test_the_small_answers_around_the_calls(shared: ServerProcess) -> None:
    client = Client(shared.url, "default-gzip")
    for method, base in (("GET", BASE), ("POST", BASE), ("GET", BASE[4:]), ("POST", BASE[4:])):
        body = None if method == "GET" else b"{}"
        assert client.request(method, f"{base}server_details", body).json()["server_version"]
    config = client.request("GET", "/auth/api/v1/server/oauth_config").json()
    assert {"client_id", "client_not_so_secret", "primary_url"} <= config.keys()
    identity = client.request("GET", "/auth/api/v1/accounts/self").json()["identity"]
    assert identity.count(":") == 1
    assert identity != "anonymous:anonymous"
    options = client.request("OPTIONS", BASE + "retrieve").headers
    assert options["access-control-allow-headers"] == "Origin, Authorization, Content-Type, Accept, User-Agent"
    assert options["access-control-allow-methods"] == "DELETE, GET, OPTIONS, POST, PUT"
    apis = client.request("GET", "/_ah/api/discovery/v1/apis").json()["items"]
    (described,) = [api for api in apis if api["id"] == "isolateservice:v1"]
    reply = client.request("GET", urlsplit(described["discoveryRestUrl"]).path)
    methods = reply.json()["resources"]["isolateservice"]["methods"]
    assert {one["path"].rpartition("/")[2]: one["httpMethod"] for one in methods.values()} == {
        "server_details": "GET", "preupload": "POST", "store_inline": "POST", "finalize_gs_upload": "POST",
        "retrieve": "POST",
    }  # fmt: skip
    content = noise("masked", 700)
    with Wire(*client.address) as wire:
        items = [{"digest": client.digest(content), "size": "700"}]
        body = json.dumps({"items": items, "namespace": {"namespace": "default-gzip"}}).encode()
        masked = wire.request("POST", BASE + "preupload?fields=items(index)", body)
        assert masked.json() == {"items": [{"index": "0"}]}
        body = json.dumps({"resolution": "HOUR", "page_size": 1}).encode()
        hour = wire.request("POST", "/prpc/isolated.v1.Isolated/Stats", body).json()["measurements"][0]
        assert hour.keys() == {
            "start_time", "uploads", "uploads_bytes", "downloads", "downloads_bytes", "contains_requests",
            "contains_lookups", "requests", "failures",
        }  # fmt: skip
        assert int(hour["contains_lookups"]) >= 1
        report = wire.request("POST", "/ereporter2/api/v1/on_error", b'{"v":"1","r":{"message":"x"}}').json()
        assert report.keys() == {"id", "url"}
        assert [wire.request("GET", f"/restricted/{page}").status for page in ("config", "purge")] == [200, 200]
        assert wire.request("POST", "/restricted/purge", b"namespace=default&digest=0&xsrf_token=0").status == 403
    for namespace, days in (("default-gzip", 7), ("temporary_x", 1), ("temporary", 1)):
        promised = client.request("GET", f"/cas/v2/{namespace}/info").json()
        assert promised["kept_s"] == days * 86_400


def test_a_person_looks_at_what_was_stored(shared: ServerProcess) -> None:
    client = Client(shared.url, "sha256-deflate")
    text = b"<script>x</script> " * 40
    tree = json.dumps({"files": {"a/b.txt": {"h": client.digest(text), "m": 416, "s": len(text)}}}).encode()
    for content in (text, tree):
        (item,) = client.preupload([content])
        client.push(item, content)

    def page(path: str, digest: str, more: str = "") -> Reply:
        with Wire(*client.address) as wire:
            return wire.request("GET", f"{path}?namespace={client.namespace}&digest={digest}{more}")

    raw = page("/content", client.digest(text), "&as=b.txt")
    assert (raw.status, raw.body, raw.headers["content-type"]) == (200, text, "text/plain; charset=utf-8")
    assert raw.headers["x-frame-options"] == "SAMEORIGIN"
    assert "filename=b.txt" in raw.headers["content-disposition"]
    table = page("/content", client.digest(tree))
    assert table.headers["content-type"] == "text/html; charset=utf-8"
    assert f"digest={client.digest(text)}".encode() in table.body
    shown = page("/browse", client.digest(text))
    assert (shown.status, b"<iframe" in shown.body, b"/content?" in shown.body) == (200, True, True)
    for path in ("/browse", "/content"):
        assert [page(path, digest).status for digest in ("0" * 64, "0" * 63, "x")] == [404, 400, 400]
    with Wire(*client.address) as wire:
        assert wire.request("GET", "/content").status == 400
        assert wire.request("GET", f"/browse?namespace={client.namespace}&hash={client.digest(text)}").status == 200
        assert wire.request("GET", "/_ah/warmup").body == b"ok"


def test_acknowledged_bulk_survives_a_power_cut_and_memory_stays_small(tmp_path: Path) -> None:
    content = noise("large", 16 * MIB) * 12
    with running_server(tmp_path / "data") as server:
        client = Client(server.url, "default-gzip")
        (warm,) = client.preupload([content[: 8 * MIB]])
        client.push(warm, content[: 8 * MIB], level=0)
        before_bytes = peak_bytes(server.pid)
        (item,) = client.preupload([content])
        data = client.push(item, content, level=0)
        assert client.fetch(content) == (True, data)
        assert peak_bytes(server.pid) - before_bytes < 64 * MIB
        server.kill()
    with running_server(tmp_path / "data") as server:
        client = Client(server.url, "default-gzip")
        assert client.preupload([content]) == []
        assert client.fetch(content) == (True, data)


def peak_bytes(pid: int) -> int:
    """Return the most memory a process ever held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1])
