-- What is known about each task (`host/src/records/postgres.rs`).
--
-- `status` is a number so that "later than" is a comparison: 0 queued, 1 running, 2 retrying, and from 3 on the ends:
-- 3 succeeded, 4 failed, 5 cancelled.
--
-- Room is left in each page (fillfactor) because nearly every row is rewritten once, from queued to its end, within
-- milliseconds; and no indexed column ever changes, so that a rewrite which finds that room touches no index (a
-- heap-only update).
CREATE TABLE tasks (
    id                text COLLATE "C" PRIMARY KEY,
    agent             text        NOT NULL,
    revision          bigint,
    status            smallint    NOT NULL,
    attempt           bigint      NOT NULL,
    output_type       text,
    output            bytea,
    failure_kind      text,
    failure_message   text,
    progress_fraction real,
    progress_note     text,
    memory_bytes_peak bigint,
    cpu_us            bigint,
    wall_us           bigint,
    host_calls        bigint,
    enqueued_at_ms    bigint      NOT NULL,
    started_at_ms     bigint,
    finished_at_ms    bigint,
    -- Of rows that `queued` made; absent where a host met the task first.
    body_sha256       bytea,
    -- Who made the row, so that a repeated insert recognises its own, and a withdrawal takes back only such rows.
    claim             uuid,
    -- Somebody else was told that this task is known, so that nobody may withdraw it any more.
    shared            boolean     NOT NULL DEFAULT false,
    -- By the database's clock, for pruning: the hosts' and the senders' clocks may disagree.
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

-- Outputs are mostly small, or compressed already (images): trying to compress them costs more than it saves.
ALTER TABLE tasks ALTER COLUMN output SET STORAGE EXTERNAL;

COMMENT ON COLUMN tasks.status IS '0 queued, 1 running, 2 retrying, 3 succeeded, 4 failed, 5 cancelled';

-- Pruning walks from the oldest row on.
CREATE INDEX tasks_created_at ON tasks (created_at);
