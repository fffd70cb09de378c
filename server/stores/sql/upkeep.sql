-- What keeps the blob store tidy: eviction, compaction, figures. Tables are those of blobs.sql. See sqlite_upkeep.py.

-- ages --
-- Every namespace with the hour of its oldest block, NULL where it has none: one descent into the index for each.
SELECT namespace.id, namespace.name, (
    SELECT block.touched_h FROM block INDEXED BY block_age
    WHERE block.namespace = namespace.id ORDER BY block.touched_h LIMIT 1
) FROM namespace ORDER BY namespace.id;

-- victims --
-- The oldest blocks of a namespace, behind the first :skip; at one age recipes go before the blocks they are made of.
SELECT id, pack, length, touched_h FROM block INDEXED BY block_age
WHERE namespace = :namespace AND touched_h <= :cutoff_h ORDER BY touched_h, kind DESC LIMIT :limit OFFSET :skip;

-- evict_block --
-- Delete a block unless somebody asked for it since it was chosen.
DELETE FROM block WHERE id = :id AND touched_h <= :cutoff_h RETURNING pack, length;

-- delete_parts --
DELETE FROM recipe WHERE block = :id;

-- bury_bytes --
-- Count bytes of a pack as dead.
UPDATE pack SET live_bytes = live_bytes - :bytes, dead_bytes = dead_bytes + :bytes WHERE id = :id;

-- packs --
-- All packs with what is alive and dead in them, those that give back most first; there is one for 256 MiB.
SELECT pack.id, namespace.name, pack.name, pack.namespace, pack.state, pack.committed_bytes, pack.live_bytes,
    pack.dead_bytes
FROM pack JOIN namespace ON namespace.id = pack.namespace
ORDER BY CAST(pack.dead_bytes AS REAL) / MAX(pack.committed_bytes, 1) DESC, pack.id;

-- blocks_of --
-- Blocks of a pack in their order, from a place on.
SELECT id, offset, length, kind, touched_h FROM block INDEXED BY block_place
WHERE pack = :pack AND offset > :after ORDER BY offset LIMIT :limit;

-- move_block --
-- A block lies elsewhere from now on, unless it went meanwhile.
UPDATE block SET pack = :to_pack, offset = :offset WHERE id = :id AND pack = :from_pack;

-- take_moved --
-- Account for what was copied into a pack: the bytes of blocks that were evicted meanwhile are dead on arrival.
UPDATE pack SET committed_bytes = MAX(committed_bytes, :end), live_bytes = live_bytes + :live,
    dead_bytes = dead_bytes + :dead WHERE id = :id;

-- find_pack --
SELECT id FROM pack WHERE name = :name;

-- forget_stale --
-- Drop the row of a blob whose record has gone.
DELETE FROM blob WHERE namespace = ? AND digest = ? AND NOT EXISTS (SELECT 1 FROM block WHERE block.id = blob.block);

-- mark_dead --
-- Nothing in this pack is alive any more: its file may go.
UPDATE pack SET state = 2
WHERE id = :id AND state <> 0 AND NOT EXISTS (SELECT 1 FROM block INDEXED BY block_place WHERE block.pack = pack.id);

-- drop_pack --
DELETE FROM pack WHERE id = :id AND state = 2;

-- note_bad_range --
-- Remember bytes of a pack that are no record.
INSERT INTO quarantine (pack, offset, length, why, found_at) VALUES (:pack, :offset, :length, :why, :found_at);

-- settle_pack --
-- Count anew what is alive in a pack that is :length long; nothing is written where that is known.
UPDATE pack SET committed_bytes = :length, live_bytes = found.live_bytes, dead_bytes = :length - found.live_bytes
FROM (SELECT COALESCE(SUM(length), 0) AS live_bytes FROM block WHERE pack = :id) AS found
WHERE pack.id = :id AND (
    pack.committed_bytes <> :length OR pack.live_bytes <> found.live_bytes
    OR pack.dead_bytes <> :length - found.live_bytes
);

-- add_part --
INSERT INTO recipe (block, part) VALUES (?, ?) ON CONFLICT DO NOTHING;

-- add_blob --
-- Index a blob again whose row was lost or names a record that is gone.
INSERT INTO blob (namespace, digest, block, entry, size) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (namespace, digest) DO UPDATE SET block = excluded.block, entry = excluded.entry, size = excluded.size;

-- stale_blobs --
-- Rows of blobs whose record has gone, from a place on.
SELECT namespace, digest FROM blob
WHERE (namespace, digest) > (:namespace, :digest) AND NOT EXISTS (SELECT 1 FROM block WHERE block.id = blob.block)
ORDER BY namespace, digest LIMIT :limit;

-- bad_places --
-- Where bad records lie in a pack.
SELECT DISTINCT offset, length FROM quarantine WHERE pack = :name ORDER BY offset;

-- quarantined --
SELECT COUNT(*), COALESCE(SUM(length), 0) FROM quarantine;

-- count_blocks --
-- Blocks by namespace and kind.
SELECT namespace, kind, COUNT(*), SUM(length) FROM block INDEXED BY block_age GROUP BY namespace, kind;

-- count_blobs --
-- Blobs by namespace whose record exists.
SELECT blob.namespace, COUNT(*), SUM(blob.size) FROM blob
WHERE EXISTS (SELECT 1 FROM block WHERE block.id = blob.block) GROUP BY blob.namespace;
