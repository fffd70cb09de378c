-- find_repeated --
-- The task made by an earlier submission with this identity and request_uuid.
SELECT id FROM tasks INDEXED BY tasks_repeated
WHERE request_uuid = ? AND request_uuid <> '' AND identity = ? AND created_at >= ?
ORDER BY id DESC LIMIT 1;

-- is_taken --
-- Whether a task or an execution has this id.
SELECT EXISTS (SELECT 1 FROM tasks WHERE id = ?1) OR EXISTS (SELECT 1 FROM executions WHERE id = ?1)
    OR EXISTS (SELECT 1 FROM results WHERE id = ?1);

-- has_execution --
-- Whether an execution has this id.
SELECT EXISTS (SELECT 1 FROM executions WHERE id = ?1) OR EXISTS (SELECT 1 FROM results WHERE id = ?1);

-- find_reusable --
-- The newest success with this hash that is not too old.
SELECT body FROM results INDEXED BY results_reusable
WHERE reusable_hash = ? AND reusable_hash IS NOT NULL AND created_at >= ?
ORDER BY created_at DESC, id DESC LIMIT 1;

-- find_live --
-- The one execution that equal tasks join.
SELECT body FROM executions INDEXED BY executions_live WHERE live_hash = ? AND live_hash IS NOT NULL;

-- claim --
-- The best of the heads of several queues. Each head is found by the queue's own index: entries that are overdue or not
-- for this bot are passed over, no other entry is looked at.
WITH heads AS (
    SELECT (
        SELECT waiting.id FROM executions AS waiting INDEXED BY executions_by_queue
        WHERE waiting.queue = wanted.value AND waiting.is_claimable = 1
            AND waiting.deadline_at > :now
            AND waiting.needs_session <= :has_session
            AND (:must_end_by IS NULL OR :now + waiting.span_s < :must_end_by)
            AND NOT EXISTS (
                SELECT 1 FROM runs
                WHERE runs.bot_id = :bot_id AND runs.created_at = waiting.created_at AND runs.execution_id = waiting.id
            )
        ORDER BY waiting.priority, waiting.rank, waiting.id LIMIT 1
    ) AS id
    FROM json_each(:queues) AS wanted
)
SELECT best.body FROM heads CROSS JOIN executions AS best ON best.id = heads.id
ORDER BY best.priority, best.rank, best.id LIMIT 1;

-- insert_execution --
-- A new execution; fails when the id or the live hash is in use.
INSERT INTO executions (version, queue, priority, rank, deadline_at, created_at, is_claimable, is_taken, needs_session,
    span_s, live_hash, body, id)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- update_execution --
-- A new value of an execution; changes no row when another writer was faster.
UPDATE executions SET version = ?, queue = ?, priority = ?, rank = ?, deadline_at = ?, created_at = ?, is_claimable = ?,
    is_taken = ?, needs_session = ?, span_s = ?, live_hash = ?, body = ?
WHERE id = ? AND version = ?;

-- end_execution --
-- An execution is not live any more; changes no row when another writer was faster.
DELETE FROM executions WHERE id = ? AND version = ?;

-- insert_result --
-- An execution that is over.
INSERT INTO results (version, created_at, reusable_hash, body, id) VALUES (?, ?, ?, ?, ?);

-- update_result --
-- A new value of an execution that is over; changes no row when another writer was faster.
UPDATE results SET version = ?, created_at = ?, reusable_hash = ?, body = ? WHERE id = ? AND version = ?;

-- get_execution --
-- One execution.
SELECT body FROM executions WHERE id = ?1 UNION ALL SELECT body FROM results WHERE id = ?1;

-- insert_run --
-- A bot got an execution.
INSERT OR IGNORE INTO runs (bot_id, created_at, execution_id) VALUES (?, ?, ?);

-- delete_run --
-- An offer left no trace.
DELETE FROM runs WHERE bot_id = ? AND created_at = ? AND execution_id = ?;

-- insert_task --
-- A new task, without its request.
INSERT INTO tasks (execution_id, attached, state, failure, deduped, slice_index, created_at, modified_at, deadline_at,
    completed_at, abandoned_at, started_at, name, parent, identity, request_uuid, id)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- insert_request --
-- What the client asked for; never changed.
INSERT INTO requests (id, body) VALUES (?, ?);

-- insert_tags --
-- The tags of a task.
INSERT INTO tags (tag, created_at, task_id) SELECT DISTINCT value, ?, ? FROM json_each(?);

-- insert_secret --
-- The secret of a task, while it waits or runs.
INSERT INTO secrets (task_id, base64) VALUES (?, ?);

-- find_secret --
-- The secret that those who share an execution have in common.
SELECT secrets.base64 FROM tasks INDEXED BY tasks_members JOIN secrets ON secrets.task_id = tasks.id
WHERE tasks.execution_id = ? AND tasks.attached = 1 LIMIT 1;

-- update_task --
-- A new value of a task.
UPDATE tasks SET execution_id = ?, attached = ?, state = ?, failure = ?, deduped = ?, slice_index = ?, created_at = ?,
    modified_at = ?, deadline_at = ?, completed_at = ?, abandoned_at = ?, started_at = ?
WHERE id = ?;

-- follow_execution --
-- Every attached task has the state and times of its execution (the rule is sharing.follow).
UPDATE tasks SET state = ?, failure = ?, modified_at = ?, completed_at = ?, abandoned_at = ?, started_at = ?
WHERE execution_id = ? AND attached = 1;

-- get_task --
-- One task with its request.
SELECT tasks.execution_id, tasks.attached, tasks.state, tasks.failure, tasks.deduped, tasks.slice_index,
    tasks.created_at, tasks.modified_at, tasks.deadline_at, tasks.completed_at, tasks.abandoned_at, tasks.started_at,
    requests.body
FROM tasks JOIN requests ON requests.id = tasks.id WHERE tasks.id = ?;

-- attached --
-- The tasks that share an execution.
SELECT id FROM tasks INDEXED BY tasks_members WHERE execution_id = ? AND attached = 1 ORDER BY id;

-- overdue --
-- Waiting tasks whose time is over.
SELECT id FROM tasks INDEXED BY tasks_overdue WHERE attached = 1 AND state = 32 AND deadline_at <= ?
ORDER BY deadline_at, id LIMIT ?;

-- taken --
-- Executions that a bot has, or is offered.
SELECT body FROM executions INDEXED BY executions_taken WHERE is_taken = 1 ORDER BY id;

-- queues --
-- Queues in which something waits or runs. From each queue the index leads to the next: what waits is not looked at.
WITH RECURSIVE waiting (queue) AS (
    SELECT MIN(queue) FROM executions INDEXED BY executions_by_queue WHERE is_claimable = 1
    UNION ALL
    SELECT (
        SELECT MIN(later.queue) FROM executions AS later INDEXED BY executions_by_queue
        WHERE later.is_claimable = 1 AND later.queue > waiting.queue
    ) FROM waiting WHERE waiting.queue IS NOT NULL
)
SELECT queue FROM waiting WHERE queue IS NOT NULL
UNION SELECT queue FROM executions INDEXED BY executions_taken WHERE is_taken = 1 ORDER BY queue;

-- parents --
-- Runs that have live children.
SELECT DISTINCT parent FROM tasks INDEXED BY tasks_children
WHERE parent IS NOT NULL AND state IN (16, 32) ORDER BY parent;

-- children --
-- The tasks a run made.
SELECT id FROM tasks INDEXED BY tasks_children
WHERE parent IN (SELECT value FROM json_each(?)) AND parent IS NOT NULL ORDER BY id;

-- runs_of --
-- What a bot worked on, newest first.
SELECT created_at, execution_id FROM runs WHERE bot_id = ? AND (created_at, execution_id) < (?, ?)
ORDER BY created_at DESC, execution_id DESC LIMIT ?;

-- save_bot --
-- A new or changed bot.
INSERT INTO bots (id, last_seen_at, body) VALUES (?, ?, ?)
ON CONFLICT (id) DO UPDATE SET last_seen_at = excluded.last_seen_at, body = excluded.body;

-- hear_bot --
-- A sign of life.
UPDATE bots SET last_seen_at = ? WHERE id = ?;

-- forget_bot --
-- A bot is not known any more.
DELETE FROM bots WHERE id = ?;

-- get_bots --
-- All bots.
SELECT last_seen_at, body FROM bots ORDER BY id;

-- insert_event --
-- Something that happened to a bot.
INSERT INTO events (bot_id, at, body) VALUES (?, ?, ?);

-- events --
-- What happened to a bot, newest first.
SELECT number, at, body FROM events INDEXED BY events_by_bot
WHERE bot_id = :bot_id AND at >= :start AND at < :end AND (at, number) < (:time, :number)
ORDER BY at DESC, number DESC LIMIT :limit;

-- ahead --
-- How many wait in front of one in its queue, counted no further than somebody wants to read.
SELECT COUNT(*) FROM (
    SELECT 1 FROM executions INDEXED BY executions_by_queue
    WHERE queue = ?1 AND is_claimable = 1 AND (priority, rank, id) < (?2, ?3, ?4) LIMIT ?5
);

-- old_tasks --
-- Tasks that are over and were made before a time.
SELECT tasks.id, tasks.created_at, requests.body
FROM tasks INDEXED BY tasks_by_time JOIN requests ON requests.id = tasks.id
WHERE tasks.created_at < ? AND tasks.state NOT IN (16, 32) ORDER BY tasks.created_at, tasks.id LIMIT ?;

-- delete_tag --
-- One tag of a task.
DELETE FROM tags WHERE tag = ? AND created_at = ? AND task_id = ?;

-- delete_request --
-- What a client asked for.
DELETE FROM requests WHERE id = ?;

-- delete_task --
-- A task.
DELETE FROM tasks WHERE id = ?;

-- old_results --
-- Executions from before an id that nobody needs: over, and no task refers to them.
SELECT id, body FROM results
WHERE id < ?1
    AND NOT EXISTS (
        SELECT 1 FROM tasks INDEXED BY tasks_members WHERE tasks.execution_id = results.id AND attached = 1
    )
    AND NOT EXISTS (
        SELECT 1 FROM tasks INDEXED BY tasks_answered
        WHERE tasks.execution_id = results.id AND tasks.execution_id IS NOT NULL AND attached = 0
    )
ORDER BY id LIMIT ?2;

-- delete_result --
-- An execution that is over.
DELETE FROM results WHERE id = ?;

-- delete_old_events --
-- Events of bots from before a time.
DELETE FROM events WHERE number IN (SELECT number FROM events INDEXED BY events_by_time WHERE at < ? ORDER BY at LIMIT ?);

-- save_output --
-- Which blob has what a run printed; again after a stop in between.
INSERT OR REPLACE INTO outputs (execution_id, try_number, digest, size) VALUES (?, ?, ?, ?);

-- find_output --
-- Which blob has what a run printed.
SELECT digest, size FROM outputs WHERE execution_id = ? AND try_number = ?;

-- outputs_after --
-- Which blobs have what runs printed, from a run on.
SELECT execution_id, try_number, digest FROM outputs WHERE (execution_id, try_number) > (?, ?)
ORDER BY execution_id, try_number LIMIT ?;

-- delete_old_outputs --
-- The rows of some runs of tasks made before a time.
DELETE FROM outputs WHERE (execution_id, try_number) IN (
    SELECT execution_id, try_number FROM outputs WHERE execution_id < ? ORDER BY execution_id LIMIT ?
);
