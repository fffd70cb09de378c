-- search_by_created --
-- Tasks by when they were made; the end of the time asked for is in the place to start from.
SELECT tasks.created_at, tasks.id FROM tasks INDEXED BY tasks_by_time
WHERE (tasks.created_at, tasks.id) < (:time, :number)
    AND (tasks.created_at, tasks.id) >= (:floor_time, :floor_number)
    AND tasks.created_at >= :created_from
    AND (:states IS NULL OR tasks.state IN (SELECT value FROM json_each(:states)))
    AND (:failure IS NULL OR tasks.failure = :failure)
    AND (:deduped IS NULL OR tasks.deduped = :deduped)
    AND (:name IS NULL OR tasks.name = :name)
    AND NOT EXISTS (
        SELECT 1 FROM json_each(:tags) AS wanted WHERE NOT EXISTS (
            SELECT 1 FROM tags
            WHERE tags.tag = wanted.value AND tags.created_at = tasks.created_at AND tags.task_id = tasks.id
        )
    )
ORDER BY tasks.created_at DESC, tasks.id DESC LIMIT :limit;

-- search_by_state --
-- Tasks of one state, by when they were made.
SELECT tasks.created_at, tasks.id FROM tasks INDEXED BY tasks_by_state
WHERE tasks.state = :state AND (tasks.created_at, tasks.id) < (:time, :number)
    AND (tasks.created_at, tasks.id) >= (:floor_time, :floor_number)
    AND tasks.created_at >= :created_from
    AND (:states IS NULL OR tasks.state IN (SELECT value FROM json_each(:states)))
    AND (:failure IS NULL OR tasks.failure = :failure)
    AND (:deduped IS NULL OR tasks.deduped = :deduped)
    AND (:name IS NULL OR tasks.name = :name)
    AND NOT EXISTS (
        SELECT 1 FROM json_each(:tags) AS wanted WHERE NOT EXISTS (
            SELECT 1 FROM tags
            WHERE tags.tag = wanted.value AND tags.created_at = tasks.created_at AND tags.task_id = tasks.id
        )
    )
ORDER BY tasks.created_at DESC, tasks.id DESC LIMIT :limit;

-- search_by_name --
-- Tasks of one name, by when they were made.
SELECT tasks.created_at, tasks.id FROM tasks INDEXED BY tasks_by_name
WHERE tasks.name = :name AND (tasks.created_at, tasks.id) < (:time, :number)
    AND (tasks.created_at, tasks.id) >= (:floor_time, :floor_number)
    AND tasks.created_at >= :created_from
    AND (:states IS NULL OR tasks.state IN (SELECT value FROM json_each(:states)))
    AND (:failure IS NULL OR tasks.failure = :failure)
    AND (:deduped IS NULL OR tasks.deduped = :deduped)
    AND (:name IS NULL OR tasks.name = :name)
    AND NOT EXISTS (
        SELECT 1 FROM json_each(:tags) AS wanted WHERE NOT EXISTS (
            SELECT 1 FROM tags
            WHERE tags.tag = wanted.value AND tags.created_at = tasks.created_at AND tags.task_id = tasks.id
        )
    )
ORDER BY tasks.created_at DESC, tasks.id DESC LIMIT :limit;

-- search_by_tag --
-- Tasks with one tag, by when they were made.
SELECT first.created_at, tasks.id FROM tags AS first CROSS JOIN tasks ON tasks.id = first.task_id
WHERE first.tag = :tag AND (first.created_at, first.task_id) < (:time, :number)
    AND (first.created_at, first.task_id) >= (:floor_time, :floor_number)
    AND first.created_at >= :created_from
    AND (:states IS NULL OR tasks.state IN (SELECT value FROM json_each(:states)))
    AND (:failure IS NULL OR tasks.failure = :failure)
    AND (:deduped IS NULL OR tasks.deduped = :deduped)
    AND (:name IS NULL OR tasks.name = :name)
    AND NOT EXISTS (
        SELECT 1 FROM json_each(:tags) AS wanted WHERE NOT EXISTS (
            SELECT 1 FROM tags
            WHERE tags.tag = wanted.value AND tags.created_at = tasks.created_at AND tags.task_id = tasks.id
        )
    )
ORDER BY first.created_at DESC, first.task_id DESC LIMIT :limit;

-- search_by_modified --
-- Tasks by when they changed last.
SELECT tasks.modified_at, tasks.id FROM tasks INDEXED BY tasks_by_change
WHERE (tasks.modified_at, tasks.id) < (:time, :number)
    AND (tasks.modified_at, tasks.id) >= (:floor_time, :floor_number)
    AND tasks.created_at >= :created_from AND tasks.created_at <= :created_to
    AND (:states IS NULL OR tasks.state IN (SELECT value FROM json_each(:states)))
    AND (:failure IS NULL OR tasks.failure = :failure)
    AND (:deduped IS NULL OR tasks.deduped = :deduped)
    AND (:name IS NULL OR tasks.name = :name)
    AND NOT EXISTS (
        SELECT 1 FROM json_each(:tags) AS wanted WHERE NOT EXISTS (
            SELECT 1 FROM tags
            WHERE tags.tag = wanted.value AND tags.created_at = tasks.created_at AND tags.task_id = tasks.id
        )
    )
ORDER BY tasks.modified_at DESC, tasks.id DESC LIMIT :limit;

-- search_by_completed --
-- Tasks by when they ended.
SELECT tasks.completed_at, tasks.id FROM tasks INDEXED BY tasks_by_end
WHERE tasks.completed_at IS NOT NULL AND (tasks.completed_at, tasks.id) < (:time, :number)
    AND (tasks.completed_at, tasks.id) >= (:floor_time, :floor_number)
    AND tasks.created_at >= :created_from AND tasks.created_at <= :created_to
    AND (:states IS NULL OR tasks.state IN (SELECT value FROM json_each(:states)))
    AND (:failure IS NULL OR tasks.failure = :failure)
    AND (:deduped IS NULL OR tasks.deduped = :deduped)
    AND (:name IS NULL OR tasks.name = :name)
    AND NOT EXISTS (
        SELECT 1 FROM json_each(:tags) AS wanted WHERE NOT EXISTS (
            SELECT 1 FROM tags
            WHERE tags.tag = wanted.value AND tags.created_at = tasks.created_at AND tags.task_id = tasks.id
        )
    )
ORDER BY tasks.completed_at DESC, tasks.id DESC LIMIT :limit;

-- search_by_abandoned --
-- Tasks by when they were given up.
SELECT tasks.abandoned_at, tasks.id FROM tasks INDEXED BY tasks_by_surrender
WHERE tasks.abandoned_at IS NOT NULL AND (tasks.abandoned_at, tasks.id) < (:time, :number)
    AND (tasks.abandoned_at, tasks.id) >= (:floor_time, :floor_number)
    AND tasks.created_at >= :created_from AND tasks.created_at <= :created_to
    AND (:states IS NULL OR tasks.state IN (SELECT value FROM json_each(:states)))
    AND (:failure IS NULL OR tasks.failure = :failure)
    AND (:deduped IS NULL OR tasks.deduped = :deduped)
    AND (:name IS NULL OR tasks.name = :name)
    AND NOT EXISTS (
        SELECT 1 FROM json_each(:tags) AS wanted WHERE NOT EXISTS (
            SELECT 1 FROM tags
            WHERE tags.tag = wanted.value AND tags.created_at = tasks.created_at AND tags.task_id = tasks.id
        )
    )
ORDER BY tasks.abandoned_at DESC, tasks.id DESC LIMIT :limit;

-- search_by_started --
-- Tasks by when their latest try began.
SELECT tasks.started_at, tasks.id FROM tasks INDEXED BY tasks_by_start
WHERE tasks.started_at IS NOT NULL AND (tasks.started_at, tasks.id) < (:time, :number)
    AND (tasks.started_at, tasks.id) >= (:floor_time, :floor_number)
    AND tasks.created_at >= :created_from AND tasks.created_at <= :created_to
    AND (:states IS NULL OR tasks.state IN (SELECT value FROM json_each(:states)))
    AND (:failure IS NULL OR tasks.failure = :failure)
    AND (:deduped IS NULL OR tasks.deduped = :deduped)
    AND (:name IS NULL OR tasks.name = :name)
    AND NOT EXISTS (
        SELECT 1 FROM json_each(:tags) AS wanted WHERE NOT EXISTS (
            SELECT 1 FROM tags
            WHERE tags.tag = wanted.value AND tags.created_at = tasks.created_at AND tags.task_id = tasks.id
        )
    )
ORDER BY tasks.started_at DESC, tasks.id DESC LIMIT :limit;

-- floor_by_created --
-- The place at which a search stops looking: `scan` rows further on in the order of its index.
SELECT created_at, id FROM tasks INDEXED BY tasks_by_time
WHERE (created_at, id) < (:time, :number)
ORDER BY created_at DESC, id DESC LIMIT 1 OFFSET :scan;

-- floor_by_state --
-- The place at which a search stops looking: `scan` rows further on in the order of its index.
SELECT created_at, id FROM tasks INDEXED BY tasks_by_state
WHERE state = :state AND (created_at, id) < (:time, :number)
ORDER BY created_at DESC, id DESC LIMIT 1 OFFSET :scan;

-- floor_by_name --
-- The place at which a search stops looking: `scan` rows further on in the order of its index.
SELECT created_at, id FROM tasks INDEXED BY tasks_by_name
WHERE name = :name AND (created_at, id) < (:time, :number)
ORDER BY created_at DESC, id DESC LIMIT 1 OFFSET :scan;

-- floor_by_tag --
-- The place at which a search stops looking: `scan` rows further on in the order of its index.
SELECT created_at, task_id FROM tags
WHERE tag = :tag AND (created_at, task_id) < (:time, :number)
ORDER BY created_at DESC, task_id DESC LIMIT 1 OFFSET :scan;

-- floor_by_modified --
-- The place at which a search stops looking: `scan` rows further on in the order of its index.
SELECT modified_at, id FROM tasks INDEXED BY tasks_by_change
WHERE (modified_at, id) < (:time, :number)
ORDER BY modified_at DESC, id DESC LIMIT 1 OFFSET :scan;

-- floor_by_completed --
-- The place at which a search stops looking: `scan` rows further on in the order of its index.
SELECT completed_at, id FROM tasks INDEXED BY tasks_by_end
WHERE completed_at IS NOT NULL AND (completed_at, id) < (:time, :number)
ORDER BY completed_at DESC, id DESC LIMIT 1 OFFSET :scan;

-- floor_by_abandoned --
-- The place at which a search stops looking: `scan` rows further on in the order of its index.
SELECT abandoned_at, id FROM tasks INDEXED BY tasks_by_surrender
WHERE abandoned_at IS NOT NULL AND (abandoned_at, id) < (:time, :number)
ORDER BY abandoned_at DESC, id DESC LIMIT 1 OFFSET :scan;

-- floor_by_started --
-- The place at which a search stops looking: `scan` rows further on in the order of its index.
SELECT started_at, id FROM tasks INDEXED BY tasks_by_start
WHERE started_at IS NOT NULL AND (started_at, id) < (:time, :number)
ORDER BY started_at DESC, id DESC LIMIT 1 OFFSET :scan;
