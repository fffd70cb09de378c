-- The index of the blob store: which record of which pack holds a blob. See sqlite_index.py.

-- schema_1 --
-- `block` is any record of a pack: contents (kind 0) or a recipe (kind 1). Ids are never used twice (AUTOINCREMENT),
-- because the blob rows of a record that is gone stay behind: a blob whose block has no row is missing.
-- `blob` is clustered by digest: one tree, one descent per look-up, rows of 50 bytes.
CREATE TABLE namespace (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);
CREATE TABLE pack (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    namespace INTEGER NOT NULL REFERENCES namespace (id),
    state INTEGER NOT NULL,
    committed_bytes INTEGER NOT NULL,
    live_bytes INTEGER NOT NULL,
    dead_bytes INTEGER NOT NULL
);
CREATE INDEX pack_unsealed ON pack (namespace, state) WHERE state <> 1;
CREATE TABLE block (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pack INTEGER NOT NULL REFERENCES pack (id),
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    touched_h INTEGER NOT NULL
);
CREATE UNIQUE INDEX block_place ON block (pack, offset);
CREATE TABLE blob (
    namespace INTEGER NOT NULL,
    digest BLOB NOT NULL,
    block INTEGER NOT NULL,
    entry INTEGER NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY (namespace, digest)
) WITHOUT ROWID;
CREATE TABLE recipe (
    block INTEGER NOT NULL,
    part INTEGER NOT NULL,
    PRIMARY KEY (block, part)
) WITHOUT ROWID;
CREATE INDEX recipe_part ON recipe (part);
CREATE TABLE quarantine (
    pack TEXT NOT NULL,
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    why TEXT NOT NULL,
    found_at REAL NOT NULL
);

-- schema_2 --
-- What eviction needs: the age of blocks by namespace, since namespaces are kept for different times. Kinds are part of
-- the order: at one age recipes (1) go before the blocks (0) they are made of.
ALTER TABLE block ADD COLUMN namespace INTEGER NOT NULL DEFAULT 0;
UPDATE block SET namespace = COALESCE((SELECT pack.namespace FROM pack WHERE pack.id = block.pack), 0);
CREATE INDEX block_age ON block (namespace, touched_h, kind DESC);
CREATE INDEX quarantine_pack ON quarantine (pack);

-- find_blobs --
-- Where the blobs are whose digests, each :digest_bytes long, are concatenated in :digests.
-- One statement and one parameter for 100,000 digests; CROSS JOIN fixes the order: digests outside, tree inside.
WITH RECURSIVE wanted (at) AS (
    VALUES (1) UNION ALL SELECT at + :digest_bytes FROM wanted WHERE at + :digest_bytes <= length(:digests)
)
SELECT blob.digest, blob.block, blob.entry, blob.size
FROM wanted CROSS JOIN blob
    ON blob.namespace = :namespace AND blob.digest = substr(:digests, wanted.at, :digest_bytes);

-- find_blocks --
-- Rows of the blocks whose ids are the JSON array :ids.
SELECT block.id, block.pack, block.offset, block.length, block.kind, block.touched_h
FROM json_each(:ids) AS wanted CROSS JOIN block ON block.id = wanted.value;

-- find_parts --
-- Which blocks hold the chunks of the recipes whose block ids are the JSON array :ids.
SELECT recipe.block, recipe.part FROM json_each(:ids) AS wanted CROSS JOIN recipe ON recipe.block = wanted.value;

-- find_packs --
-- Namespaces and names of the packs whose ids are the JSON array :ids.
SELECT pack.id, namespace.name, pack.name FROM json_each(:ids) AS wanted
CROSS JOIN pack ON pack.id = wanted.value CROSS JOIN namespace ON namespace.id = pack.namespace;

-- find_namespace --
SELECT id FROM namespace WHERE name = :name;

-- add_namespace --
INSERT INTO namespace (name) VALUES (:name) ON CONFLICT DO NOTHING;

-- touch_blocks --
-- Note that the blocks of the JSON array :ids were asked for; the number of changed rows tells whether all still exist.
UPDATE block SET touched_h = MAX(touched_h, :touched_h) WHERE id IN (SELECT value FROM json_each(:ids));

-- add_pack --
-- Announce a pack before its first byte is written, so that a crash leaves no file nobody knows.
INSERT INTO pack (name, namespace, state, committed_bytes, live_bytes, dead_bytes)
VALUES (:name, (SELECT id FROM namespace WHERE name = :namespace), 0, 0, 0, 0);

-- seal_pack --
-- Never append to this pack again.
UPDATE pack SET state = 1 WHERE name = :name AND state = 0;

-- open_packs --
-- Packs that were being appended to, and up to where their bytes were acknowledged.
SELECT namespace.name, pack.name, pack.committed_bytes
FROM pack JOIN namespace ON namespace.id = pack.namespace
WHERE pack.state <> 1 AND pack.state = 0;

-- used_bytes --
SELECT COALESCE(SUM(committed_bytes), 0) FROM pack;

-- find_pack --
SELECT id FROM pack WHERE name = :name;

-- add_block --
INSERT INTO block (pack, offset, length, kind, touched_h, namespace)
VALUES (:pack, :offset, :length, :kind, :touched_h, (SELECT namespace FROM pack WHERE id = :pack));

-- grow_pack --
-- Advance the acknowledged end of a pack; bytes up to there are never dropped as the tail of a crash.
UPDATE pack SET committed_bytes = MAX(committed_bytes, :end), live_bytes = live_bytes + :added_bytes WHERE id = :id;

-- add_part --
INSERT INTO recipe (block, part) VALUES (?, ?) ON CONFLICT DO NOTHING;

-- add_blob --
-- Index one blob; its older row, if any, names a record that is gone or cannot be trusted.
INSERT INTO blob (namespace, digest, block, entry, size) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (namespace, digest) DO UPDATE SET block = excluded.block, entry = excluded.entry, size = excluded.size;

-- quarantine_block --
-- Remember where a bad record lies; nothing may delete its bytes silently.
INSERT INTO quarantine (pack, offset, length, why, found_at)
SELECT pack.name, block.offset, block.length, :why, :found_at
FROM block JOIN pack ON pack.id = block.pack WHERE block.id = :id;

-- bury_block --
-- Count the bytes of a block that is about to lose its row as dead.
UPDATE pack SET
    live_bytes = live_bytes - (SELECT length FROM block WHERE block.id = :id),
    dead_bytes = dead_bytes + (SELECT length FROM block WHERE block.id = :id)
WHERE id = (SELECT block.pack FROM block WHERE block.id = :id);

-- delete_block --
-- From here on every blob of the block is missing.
DELETE FROM block WHERE id = :id;

-- delete_parts --
DELETE FROM recipe WHERE block = :id;

-- forget_blob --
-- A row that turned out to name the wrong record.
DELETE FROM blob WHERE namespace = (SELECT id FROM namespace WHERE name = :namespace) AND digest = :digest;
