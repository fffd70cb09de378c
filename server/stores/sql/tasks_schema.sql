-- schema_1 --
-- Tables of the task store. Columns repeat what statements look for; the whole value is JSON in `body`.
-- Ids are the numbers of the packed ids; times are epoch seconds.
CREATE TABLE executions (
    id INTEGER PRIMARY KEY,
    version INTEGER NOT NULL,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    deadline_at REAL NOT NULL,
    created_at REAL NOT NULL,
    is_claimable INTEGER NOT NULL,
    is_taken INTEGER NOT NULL,
    needs_session INTEGER NOT NULL,
    span_s REAL,
    live_hash TEXT,
    reusable_hash TEXT,
    body BLOB NOT NULL
);
CREATE INDEX executions_by_queue ON executions (queue, priority, rank) WHERE is_claimable = 1;
CREATE INDEX executions_taken ON executions (id) WHERE is_taken = 1;
CREATE UNIQUE INDEX executions_live ON executions (live_hash) WHERE live_hash IS NOT NULL;
CREATE INDEX executions_reusable ON executions (reusable_hash, created_at) WHERE reusable_hash IS NOT NULL;

CREATE TABLE runs (
    bot_id TEXT NOT NULL,
    created_at REAL NOT NULL,
    execution_id INTEGER NOT NULL,
    PRIMARY KEY (bot_id, created_at, execution_id)
) WITHOUT ROWID;

CREATE TABLE tasks (
    id INTEGER PRIMARY KEY,
    execution_id INTEGER,
    attached INTEGER NOT NULL,
    state INTEGER NOT NULL,
    failure INTEGER NOT NULL,
    deduped INTEGER NOT NULL,
    slice_index INTEGER NOT NULL,
    created_at REAL NOT NULL,
    modified_at REAL NOT NULL,
    deadline_at REAL NOT NULL,
    completed_at REAL,
    abandoned_at REAL,
    name TEXT NOT NULL,
    parent TEXT,
    identity TEXT NOT NULL,
    request_uuid TEXT NOT NULL
);
CREATE INDEX tasks_members ON tasks (execution_id) WHERE attached = 1;
CREATE INDEX tasks_overdue ON tasks (deadline_at) WHERE attached = 1 AND state = 32;
CREATE INDEX tasks_repeated ON tasks (request_uuid, identity) WHERE request_uuid <> '';
CREATE INDEX tasks_children ON tasks (parent) WHERE parent IS NOT NULL;
CREATE INDEX tasks_by_time ON tasks (created_at);
CREATE INDEX tasks_by_state ON tasks (state, created_at);
CREATE INDEX tasks_by_name ON tasks (name, created_at);

CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    body BLOB NOT NULL
);

CREATE TABLE tags (
    tag TEXT NOT NULL,
    created_at REAL NOT NULL,
    task_id INTEGER NOT NULL,
    PRIMARY KEY (tag, created_at, task_id)
) WITHOUT ROWID;

CREATE TABLE bots (
    id TEXT PRIMARY KEY,
    last_seen_at REAL NOT NULL,
    body BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE events (
    number INTEGER PRIMARY KEY,
    bot_id TEXT NOT NULL,
    at REAL NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX events_by_bot ON events (bot_id, at);

-- schema_2 --
-- When tasks began, an index for every order they are listed in, and one for what refers to an execution without a
-- share in it, so that old ones can be deleted.
ALTER TABLE tasks ADD COLUMN started_at REAL;
CREATE INDEX tasks_by_change ON tasks (modified_at);
CREATE INDEX tasks_by_end ON tasks (completed_at) WHERE completed_at IS NOT NULL;
CREATE INDEX tasks_by_surrender ON tasks (abandoned_at) WHERE abandoned_at IS NOT NULL;
CREATE INDEX tasks_by_start ON tasks (started_at) WHERE started_at IS NOT NULL;
CREATE INDEX tasks_answered ON tasks (execution_id) WHERE attached = 0 AND execution_id IS NOT NULL;
CREATE INDEX events_by_time ON events (at);

-- schema_3 --
-- What is over moves out of the table that claims look at: however many results there are, the live ones stay together.
-- Secrets are kept apart, as long as their task may need them; what has one only shows that it does.
CREATE TABLE results (
    id INTEGER PRIMARY KEY,
    version INTEGER NOT NULL,
    created_at REAL NOT NULL,
    reusable_hash TEXT,
    body BLOB NOT NULL
);
INSERT INTO results (id, version, created_at, reusable_hash, body)
    SELECT id, version, created_at, reusable_hash, body FROM executions WHERE is_claimable = 0 AND is_taken = 0;
DELETE FROM executions WHERE is_claimable = 0 AND is_taken = 0;
DROP INDEX executions_reusable;
ALTER TABLE executions DROP COLUMN reusable_hash;
CREATE INDEX results_reusable ON results (reusable_hash, created_at) WHERE reusable_hash IS NOT NULL;

CREATE TABLE secrets (
    task_id INTEGER PRIMARY KEY,
    base64 TEXT NOT NULL
);
INSERT INTO secrets (task_id, base64)
    SELECT id, json_extract(CAST(body AS TEXT), '$.slices[0].properties.secret') FROM requests
    WHERE instr(CAST(body AS TEXT), '"secret":"') > 0
        AND id IN (SELECT id FROM tasks WHERE attached = 1 AND state IN (16, 32));
UPDATE requests SET body = CAST(json_replace(CAST(body AS TEXT),
        '$.slices[0].properties.secret', 'of task ' || id, '$.slices[1].properties.secret', 'of task ' || id,
        '$.slices[2].properties.secret', 'of task ' || id, '$.slices[3].properties.secret', 'of task ' || id,
        '$.slices[4].properties.secret', 'of task ' || id, '$.slices[5].properties.secret', 'of task ' || id,
        '$.slices[6].properties.secret', 'of task ' || id, '$.slices[7].properties.secret', 'of task ' || id
    ) AS BLOB) WHERE instr(CAST(body AS TEXT), '"secret":"') > 0;
UPDATE executions SET body = CAST(json_replace(CAST(body AS TEXT), '$.properties.secret', 'of task ' || id) AS BLOB)
    WHERE instr(CAST(body AS TEXT), '"secret":"') > 0;
UPDATE results SET body = CAST(json_replace(CAST(body AS TEXT), '$.properties.secret', 'of task ' || id) AS BLOB)
    WHERE instr(CAST(body AS TEXT), '"secret":"') > 0;
CREATE TRIGGER secrets_end AFTER UPDATE OF state ON tasks WHEN NEW.state NOT IN (16, 32)
BEGIN
    DELETE FROM secrets WHERE task_id = NEW.id;
END;

-- schema_4 --
-- What runs printed that are over: which blob of the namespace for it. While a run goes on its output is a file.
CREATE TABLE outputs (
    execution_id INTEGER NOT NULL,
    try_number INTEGER NOT NULL,
    digest BLOB NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY (execution_id, try_number)
) WITHOUT ROWID;
