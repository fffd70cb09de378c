"""The rules a task request obeys before it becomes one: every limit of the REST API, with its message.

Knows no model and no store: it judges the messages of `wire_in` and answers by raising `InvalidTask`. What passes here
needs no later check. The figures are those of 2020, the shortest times those of its development server.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from isolate.errors import InvalidPath, InvalidTask
from isolate.paths import RelPath
from swarming.wire_files import check_files_ref
from swarming.wire_in import Containment, NewTaskRequest, Pair, Properties, Slice

DEFAULT_POOL = "default"  # of requests and bots that name none
ROOT = "."  # the directory of the task itself, normalised
MIN_TIME_S = 1  # unless the settings of the server say more: 30 in production in 2020, whose smoke tests need 1
MAX_EXPIRATION_S = 7 * 86_400 + 10
MAX_TIMEOUT_S = 3 * 86_400 + 10
MAX_GRACE_S = 3_600
PING_TOLERANCE_S = (30, 1_200)
MAX_SLICES = 8
MAX_NAME_CHARS, MAX_USER_CHARS, MAX_REALM_CHARS = 1_024, 256, 512
MAX_DIMENSION_KEYS, MAX_DIMENSION_VALUES = 32, 16
MAX_KEY_CHARS, MAX_VALUE_CHARS = 64, 256
MAX_COMBINATIONS = 8  # an OR dimension is looked up once per alternative
MAX_ARGUMENTS, MAX_ARGUMENTS_CHARS = 128, 1_048_576  # of all together
MAX_PREFIX_PATHS = 64
MAX_ENV, MAX_ENV_VALUE_CHARS = 64, 1_024
MAX_CACHES, MAX_CACHE_NAME_CHARS, MAX_CACHE_PATH_CHARS = 32, 128, 256
MAX_OUTPUTS, MAX_OUTPUT_CHARS = 4_096, 512
MAX_SECRET_BYTES = 20 * 1024
MAX_TAGS, MAX_TAG_CHARS = 256, MAX_KEY_CHARS + 1 + MAX_VALUE_CHARS
MAX_USERDATA_CHARS = 1_024
RESERVED_TAGS = ("swarming.pool.template", "swarming.pool.version")  # what the server alone says

_DIMENSION_KEY = re.compile(r"[a-zA-Z\-_.][0-9a-zA-Z\-_.]*")
_ENV_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CACHE_NAME = re.compile(r"[a-z0-9_]+")
_UUID = re.compile(r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}")
_TOPIC = re.compile(r"projects/[^/]+/topics/[^/]+")


def check_request(new: NewTaskRequest, least_s: int = MIN_TIME_S) -> Sequence[Slice]:
    """Return the slices of a valid request; raises InvalidTask with the first rule it breaks.

    `least_s` is the shortest expiration or time-out. Whether two slices are one is for who has built them.
    """
    slices = _slices(new)
    _require(bool(new.name), "name is required")
    if new.priority is None:
        raise InvalidTask("priority is required")
    _require(0 <= new.priority <= 255, f"priority ({new.priority}) must be between 0 and 255 (inclusive)")
    _require(not new.request_uuid or bool(_UUID.fullmatch(new.request_uuid)), "invalid uuid is given as request_uuid")
    _check_notes(new)
    terminates = [is_terminate(part.properties or Properties()) for part in slices]
    _require(new.priority != 0 or all(terminates), "priority 0 can only be used for terminate request")
    _require(new.priority == 0 or not any(terminates), "terminate request must be priority 0")
    for part, terminate in zip(slices, terminates, strict=True):
        _between("expiration_secs", part.expiration_secs, least_s, MAX_EXPIRATION_S)
        check_properties(part.properties or Properties(), terminate=terminate, least_s=least_s)
    bodies = [part.properties or Properties() for part in slices]
    _require(len({_pool(body) for body in bodies}) == 1, "each task slice must use the same pool dimensions")
    _require(
        len({secret_bytes(body) for body in bodies}) == 1, "when using secret_bytes, all task slices must share it"
    )
    return slices


def _slices(new: NewTaskRequest) -> Sequence[Slice]:
    if new.properties is not None and new.task_slices:
        raise InvalidTask("Specify one of properties or task_slices, not both")
    if new.properties is not None:
        _require(new.expiration_secs is not None, "missing expiration_secs")
        return [Slice(expiration_secs=new.expiration_secs, properties=new.properties, wait_for_capacity=False)]
    _require(new.expiration_secs is None, "When using task_slices, do not specify a global expiration_secs")
    _require(bool(new.task_slices), "task_slices or properties is required")
    slices = new.task_slices or []
    _require(len(slices) <= MAX_SLICES, f"A maximum of {MAX_SLICES} task_slices is supported")
    return slices


def _check_limits(asked: Containment | None) -> None:
    """Judge the limits of a task's processes together."""
    if asked is not None:
        _require((asked.limit_processes or 0) >= 0, "containment.limit_processes must not be negative")
        memory = asked.limit_total_committed_memory or 0
        _require(memory >= 0, "containment.limit_total_committed_memory must not be negative")


def _check_notes(new: NewTaskRequest) -> None:
    """Judge what travels with a task and does not change what is run."""
    texts = (("name", new.name, MAX_NAME_CHARS), ("user", new.user, MAX_USER_CHARS))
    for what, text, most in (*texts, ("realm", new.realm, MAX_REALM_CHARS)):
        _require(len(text or "") <= most, f"{what} is longer than {most} characters")
    tags = new.tags or []
    _require(len(tags) <= MAX_TAGS, f"Can have up to {MAX_TAGS} tags")
    for tag in tags:
        _require(":" in tag, f"tags must be in key:value form, not {tag}")
        _require(len(tag) <= MAX_TAG_CHARS, f"tags must be at most {MAX_TAG_CHARS} characters: {tag[:40]}…")
        for key in RESERVED_TAGS:
            _require(not tag.startswith(f"{key}:"), f"{key} is a reserved tag")
    if new.bot_ping_tolerance_secs is not None:
        _between("bot_ping_tolerance_secs", new.bot_ping_tolerance_secs, *PING_TOLERANCE_S)
    account = new.service_account
    if account and account not in {"none", "bot"}:
        _require(len(account) <= 128 and "@" in account, f"service_account {account!r} is no email, 'bot' or 'none'")
        raise InvalidTask(
            "A service_account needs a token server, which this server does not have; use 'none' or 'bot'"
        )
    if new.resultdb is not None and new.resultdb.enable:
        _require(bool(new.realm), "resultdb is enabled, but realm is not set")
        raise InvalidTask("This server has no ResultDB")
    if new.pubsub_topic or new.pubsub_auth_token or new.pubsub_userdata:
        topic = bool(_TOPIC.fullmatch(new.pubsub_topic or ""))
        _require(topic, "pubsub_topic must be projects/<project>/topics/<topic>")
        _require(len(new.pubsub_userdata or "") <= MAX_USERDATA_CHARS, "pubsub_userdata is too long")
        raise InvalidTask("This server cannot publish to pubsub_topic")


def is_terminate(properties: Properties) -> bool:
    """Whether these properties ask a bot to end: dimensions exactly one id, and nothing to run."""
    if [pair.key for pair in properties.dimensions or []] != ["id"]:
        return False
    harmless = {"dimensions", "containment", "grace_period_secs"}
    inputs = properties.inputs_ref
    set_fields = {field for field in properties.__struct_fields__ if getattr(properties, field)}  # [] and 0 are unset
    return set_fields <= harmless | ({"inputs_ref"} if inputs and not inputs.isolated else set())


def check_properties(properties: Properties, *, terminate: bool, least_s: int = MIN_TIME_S) -> None:
    """Judge what is run and where."""
    check_dimensions(properties.dimensions or [])
    _check_limits(properties.containment)
    if terminate:
        return
    if properties.execution_timeout_secs is None:
        raise InvalidTask("execution_timeout_secs is required")
    _between("execution_timeout_secs", properties.execution_timeout_secs, least_s, MAX_TIMEOUT_S)
    if properties.io_timeout_secs:
        _between("io_timeout_secs", properties.io_timeout_secs, least_s, MAX_TIMEOUT_S)
    if properties.grace_period_secs is not None:
        _between("grace_period_secs", properties.grace_period_secs, 0, MAX_GRACE_S)
    _check_command(properties)
    check_environment(properties)
    check_caches(properties)
    _require(len(properties.outputs or []) <= MAX_OUTPUTS, f"Too many outputs: up to {MAX_OUTPUTS}")
    for path in properties.outputs or []:
        _relative("outputs", path, MAX_OUTPUT_CHARS)
    secret_bytes(properties)
    if properties.cipd_input or properties.cas_input_root:
        raise InvalidTask("This server supports neither cipd_input nor cas_input_root; use inputs_ref")


def check_dimensions(dimensions: Sequence[Pair]) -> None:
    """Judge where a task may run."""
    keys = {pair.key for pair in dimensions}
    _require(len(keys) <= MAX_DIMENSION_KEYS, f"dimensions can have up to {MAX_DIMENSION_KEYS} keys")
    combinations = 1
    for key in sorted(str(key or "") for key in keys):
        _require(is_dimension_key(key), f"dimension key {key!r} is invalid")
        values = [pair.value or "" for pair in dimensions if pair.key == key]
        _require(len(values) <= MAX_DIMENSION_VALUES, f"dimension key {key!r} has too many values")
        _require(len(set(values)) == len(values), f"dimension key {key!r} has repeated values")
        for value in values:
            alternatives = value.split("|")
            combinations *= len(alternatives)
            for text in alternatives:
                _require(is_dimension_value(text), f"dimension key {key!r} has invalid value {value!r}")
        if key in {"id", "pool"}:
            _require(len(values) == 1, f"{key!r} cannot be specified more than once in dimensions")
        _require(key != "pool" or "|" not in values[0], "'pool' cannot use the OR operator '|'")
    _require(combinations <= MAX_COMBINATIONS, f"dimensions have more than {MAX_COMBINATIONS} combinations")


def is_dimension_value(value: str) -> bool:
    """Whether `value` may stand for a dimension, on the side of a task or of a bot."""
    return 0 < len(value) <= MAX_VALUE_CHARS and _is_clean(value)


@lru_cache(maxsize=16_384)  # every poll of every bot has the same ones
def _is_clean(value: str) -> bool:
    return value == value.strip() and value.isprintable()


def is_dimension_key(key: str) -> bool:
    """Whether `key` may name a dimension."""
    return len(key) <= MAX_KEY_CHARS and _DIMENSION_KEY.fullmatch(key) is not None


def secret_bytes(properties: Properties) -> bytes | None:
    """Return the decoded secret of a task; raises InvalidTask."""
    if not properties.secret_bytes:
        return None
    try:
        text = "".join(properties.secret_bytes.splitlines())  # clients on Python 2 break lines, as MIME does
        secret = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidTask("secret_bytes is not base64") from error
    _require(len(secret) <= MAX_SECRET_BYTES, f"secret_bytes must be at most {MAX_SECRET_BYTES} bytes")
    return secret


def _check_command(properties: Properties) -> None:
    command, extra = properties.command or [], properties.extra_args or []
    has_inputs = properties.inputs_ref is not None and bool(properties.inputs_ref.isolated)
    _require(not (command and extra), "can't use both command and extra_args")
    _require(bool(command) or has_inputs, "use at least one of command or inputs_ref.isolated")
    _require(not extra or has_inputs, "extra_args require inputs_ref")
    _require(len(command) <= MAX_ARGUMENTS, f"command can have up to {MAX_ARGUMENTS} arguments")
    _require(len(extra) <= MAX_ARGUMENTS, f"extra_args can have up to {MAX_ARGUMENTS} arguments")
    what, arguments = ("command", command) if command else ("extra_args", extra)
    fits = sum(map(len, arguments)) <= MAX_ARGUMENTS_CHARS
    _require(fits, f"{what} is longer than {MAX_ARGUMENTS_CHARS} characters")
    _require(not any("\0" in argument for argument in arguments), "command has a NUL character")
    if properties.relative_cwd and properties.relative_cwd != ROOT:
        _relative("relative_cwd", properties.relative_cwd, MAX_OUTPUT_CHARS)
    if properties.inputs_ref is not None:
        check_files_ref(properties.inputs_ref)


def check_environment(properties: Properties) -> None:
    """Judge variables of the environment, and what goes before the values of others."""
    env = properties.env or []
    _unique("env", [pair.key for pair in env], MAX_ENV)
    for pair in env:
        _env_key("env", pair.key)
        value = pair.value or ""
        _require(
            len(value) <= MAX_ENV_VALUE_CHARS and "\0" not in value, f"env value of {pair.key!r} is invalid or too long"
        )
    prefixes = properties.env_prefixes or []
    _unique("env_prefixes", [pair.key for pair in prefixes], MAX_ENV)
    for prefix in prefixes:
        _env_key("env_prefixes", prefix.key)
        _require(bool(prefix.value), f"env_prefixes of {prefix.key!r} has no path")
        fits = len(prefix.value or []) <= MAX_PREFIX_PATHS
        _require(fits, f"env_prefixes of {prefix.key!r} can have up to {MAX_PREFIX_PATHS} paths")
        for path in prefix.value or []:
            _require("\\" not in path, f"env_prefixes path {path!r} must use '/'")
            if path != ROOT:
                _relative("env_prefixes", path, MAX_ENV_VALUE_CHARS)


def check_caches(properties: Properties) -> None:
    """Judge the named caches."""
    caches = properties.caches or []
    _unique("caches", [cache.name for cache in caches], MAX_CACHES)
    _unique("caches", [cache.path for cache in caches], MAX_CACHES)
    for cache in caches:
        name = cache.name or ""
        _require(
            len(name) <= MAX_CACHE_NAME_CHARS and bool(_CACHE_NAME.fullmatch(name)), f"cache name {name!r} is invalid"
        )
        _relative("caches", cache.path or "", MAX_CACHE_PATH_CHARS)


def _env_key(what: str, key: str | None) -> None:
    valid = key is not None and len(key) <= MAX_KEY_CHARS and _ENV_KEY.fullmatch(key)
    _require(bool(valid), f"{what} key {key!r} is invalid")


def _unique(what: str, keys: Iterable[str | None], most: int) -> None:
    found = list(keys)
    _require(len(found) <= most, f"{what} can have up to {most} entries")
    for index, key in enumerate(found):
        _require(key not in found[:index], f"{what} has {key!r} twice")


def _relative(what: str, path: str, most_chars: int) -> None:
    _require(len(path) <= most_chars, f"{what} path is longer than {most_chars} characters")
    try:
        RelPath(path)
    except InvalidPath:
        raise InvalidTask(f"{what} path {path!r} must be relative, normalised and without '..'") from None


def _pool(properties: Properties) -> str:
    """Return the pool asked for; without one it is `default`, as for bots."""
    return next((pair.value or "" for pair in properties.dimensions or [] if pair.key == "pool"), DEFAULT_POOL)


def _between(what: str, value: int | None, low: int, high: int) -> None:
    if value is None:
        raise InvalidTask(f"{what} is required")
    _require(low <= value <= high, f"{what} ({value}) must be between {low} and {high} seconds (inclusive)")


def _require(fine: bool, message: str) -> None:
    if not fine:
        raise InvalidTask(message)
