-- What the runs of tasks said (`host/src/records/postgres/logs.rs`): a row for each run that said something.
--
-- There is no foreign key: what a run said may be written before its task's row, and most tasks say nothing, whose rows
-- should not be looked for here when they go.
CREATE TABLE task_logs (
    task_id    text COLLATE "C" NOT NULL,
    -- A UUIDv7: in the order in which the runs ended.
    run        uuid             NOT NULL,
    generation integer          NOT NULL,
    attempt    bigint           NOT NULL,
    revision   bigint,
    host       text             NOT NULL,
    is_cut     boolean          NOT NULL,
    -- One JSON document a line.
    lines      text             NOT NULL,
    created_at timestamptz      NOT NULL DEFAULT now(),
    PRIMARY KEY (task_id, run)
);
-- Pruning walks from the oldest row on.
CREATE INDEX task_logs_created_at ON task_logs (created_at);
