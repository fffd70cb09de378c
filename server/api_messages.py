"""The messages of the REST API for clients as data: the fields of each and their kinds.

Knows no call. A kind is string, bytes (base64), ts, int64 (a string in replies), bool, float, object, the name of an
enum or of another message, and a list of them with `[]` behind it.
"""

from __future__ import annotations

from collections.abc import Mapping

from swarming.states import State
from swarming.wire import CONTAINMENTS, SORTS, STATE_QUERIES

ENUMS: Mapping[str, tuple[str, ...]] = {
    "TaskState": tuple(state.name for state in State),
    "TaskStateQuery": STATE_QUERIES,
    "TaskSort": SORTS,
    "ThreeStateBool": ("FALSE", "TRUE", "NONE"),
    "PoolTaskTemplateField": ("AUTO", "CANARY_PREFER", "CANARY_NEVER", "SKIP"),
    "ContainmentType": CONTAINMENTS,
}
SIMPLE = {"string", "bytes", "ts", "int64", "bool", "float", "object"}


def _fields(text: str) -> dict[str, str]:
    """Return fields by name from words: `name` is a string, `name:kind` anything."""
    parted = (word.partition(":") for word in text.split())
    return {name: kind or "string" for name, _, kind in parted}


MESSAGES: Mapping[str, Mapping[str, str]] = {
    "StringPair": _fields("key value"),
    "StringListPair": _fields("key value:string[]"),
    "FilesRef": _fields("isolated isolatedserver namespace"),
    "CacheEntry": _fields("name path"),
    "Containment": _fields(
        "lower_priority:bool containment_type:ContainmentType limit_processes:int64 limit_total_committed_memory:int64"
    ),
    "TaskProperties": _fields(
        "caches:CacheEntry[] cas_input_root:object cipd_input:object command:string[] containment:Containment "
        "dimensions:StringPair[] env:StringPair[] env_prefixes:StringListPair[] execution_timeout_secs:int64 "
        "extra_args:string[] grace_period_secs:int64 idempotent:bool inputs_ref:FilesRef io_timeout_secs:int64 "
        "outputs:string[] relative_cwd secret_bytes:bytes"
    ),
    "TaskSlice": _fields("expiration_secs:int64 properties:TaskProperties wait_for_capacity:bool"),
    "ResultDBCfg": _fields("enable:bool"),
    "NewTaskRequest": _fields(
        "bot_ping_tolerance_secs:int64 evaluate_only:bool expiration_secs:int64 name parent_task_id "
        "pool_task_template:PoolTaskTemplateField priority:int64 properties:TaskProperties pubsub_auth_token "
        "pubsub_topic pubsub_userdata realm request_uuid resultdb:ResultDBCfg service_account tags:string[] "
        "task_slices:TaskSlice[] user"
    ),
    "TaskRequest": _fields(
        "name task_id parent_task_id priority:int64 expiration_secs:int64 properties:TaskProperties "
        "task_slices:TaskSlice[] tags:string[] user authenticated created_ts:ts service_account realm "
        "bot_ping_tolerance_secs:int64"
    ),
    "OperationStats": _fields(
        "duration:float initial_number_items:int64 initial_size:int64 items_cold:bytes items_hot:bytes "
        "num_items_cold:int64 total_bytes_items_cold:int64 num_items_hot:int64 total_bytes_items_hot:int64"
    ),
    "PerformanceStats": _fields("bot_overhead:float isolated_download:OperationStats isolated_upload:OperationStats"),
    "PendingBot": _fields("bot_id reason"),
    "PendingReason": _fields("reason bots:int64"),
    "Pending": _fields(
        "summary bots_known:int64 bots_capable:int64 bots_ready:int64 ahead_in_queue:int64 ahead_is_at_least:bool "
        "reasons:PendingReason[] bots:PendingBot[]"
    ),
    "TaskResult": _fields(
        "task_id name created_ts:ts modified_ts:ts state:TaskState failure:bool internal_failure:bool "
        "server_versions:string[] current_task_slice:int64 user tags:string[] bot_id bot_version "
        "bot_dimensions:StringListPair[] try_number:int64 run_id started_ts:ts completed_ts:ts abandoned_ts:ts "
        "duration:float exit_code:int64 costs_usd:float[] cost_saved_usd:float deduped_from children_task_ids:string[] "
        "outputs_ref:FilesRef cipd_pins:object performance_stats:PerformanceStats pending:Pending"
    ),
    "TaskRequestMetadata": _fields("request:TaskRequest task_id task_result:TaskResult"),
    "TaskList": _fields("cursor items:TaskResult[] now:ts"),
    "TaskRequests": _fields("cursor items:TaskRequest[] now:ts"),
    "TasksCount": _fields("count:int64 now:ts"),
    "TaskStates": _fields("states:TaskState[]"),
    "TasksCancelRequest": _fields("tags:string[] cursor limit:int64 kill_running:bool"),
    "TasksCancelResponse": _fields("cursor matched:int64 now:ts"),
    "TasksTags": _fields("tasks_tags:StringListPair[] ts:ts"),
    "TaskOutput": _fields("output state:TaskState next_offset:int64"),
    "TaskCancelRequest": _fields("kill_running:bool"),
    "CancelResponse": _fields("ok:bool was_running:bool"),
    "TaskQueue": _fields("dimensions:string[] valid_until_ts:ts"),
    "TaskQueueList": _fields("cursor items:TaskQueue[] now:ts"),
    "BotInfo": _fields(
        "bot_id dimensions:StringListPair[] external_ip authenticated_as first_seen_ts:ts is_dead:bool last_seen_ts:ts "
        "quarantined:bool maintenance_msg task_id task_name version state deleted:bool"
    ),
    "BotEvent": _fields(
        "ts:ts event_type message dimensions:StringListPair[] state external_ip authenticated_as version "
        "quarantined:bool maintenance_msg task_id"
    ),
    "BotList": _fields("cursor items:BotInfo[] now:ts death_timeout:int64"),
    "BotsCount": _fields("count:int64 quarantined:int64 maintenance:int64 dead:int64 busy:int64 now:ts"),
    "BotsDimensions": _fields("bots_dimensions:StringListPair[] ts:ts"),
    "BotEvents": _fields("cursor items:BotEvent[] now:ts"),
    "TerminateResponse": _fields("task_id"),
    "DeletedResponse": _fields("deleted:bool"),
    "ServerDetails": _fields(
        "server_version bot_version default_isolate_server default_isolate_namespace display_server_url_template"
    ),
    "ClientPermissions": _fields(
        "cancel_task:bool cancel_tasks:bool delete_bot:bool get_bootstrap_token:bool get_configs:bool put_configs:bool "
        "terminate_bot:bool list_bots:string[] list_tasks:string[]"
    ),
    "BootstrapToken": _fields("bootstrap_token"),
    "FileContent": _fields("content version who when:ts"),
    "FileContentRequest": _fields("content name"),
    "ErrorBody": _fields("code message"),
    "Error": _fields("error:ErrorBody"),
}
