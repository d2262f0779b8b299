-- One effect for each task, whatever is delivered twice or dies in between.
--
-- The row of an ended task is its inbox row: whoever meets the task again finds that it has ended. Everything that leaves
-- with an end is written in the same commit: messages in `outbox`, until they were sent, and what a dead letter says.

-- How often the task was redriven: an end counts for its generation.
ALTER TABLE tasks ADD COLUMN generation integer NOT NULL DEFAULT 0;

-- Messages on their way out. Nearly every row lives for milliseconds; those past `due_at` were left behind by a host that
-- died, and any host sends them.
CREATE TABLE outbox (
    id      uuid PRIMARY KEY,
    payload bytea       NOT NULL,
    due_at  timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE outbox ALTER COLUMN payload SET STORAGE EXTERNAL;
CREATE INDEX outbox_due ON outbox (due_at);

CREATE TABLE dead_letters (
    id            text COLLATE "C" PRIMARY KEY,
    agent         text COLLATE "C" NOT NULL,
    generation    integer          NOT NULL,
    failed_at_ms  bigint           NOT NULL,
    error_type    text             NOT NULL,
    error_message text             NOT NULL,
    attempts      bigint           NOT NULL,
    revision      bigint,
    digest        text,
    host          text             NOT NULL,
    message       bytea            NOT NULL
);
ALTER TABLE dead_letters ALTER COLUMN message SET STORAGE EXTERNAL;
CREATE INDEX dead_letters_newest ON dead_letters (failed_at_ms DESC, id DESC);
CREATE INDEX dead_letters_newest_of_agent ON dead_letters (agent, failed_at_ms DESC, id DESC);

-- Letters that were redriven or dropped, and may still lie in the broker's queue.
CREATE TABLE dead_letters_taken (
    agent      text COLLATE "C" NOT NULL,
    id         text COLLATE "C" NOT NULL,
    generation integer          NOT NULL,
    taken_at   timestamptz      NOT NULL DEFAULT now(),
    PRIMARY KEY (agent, id, generation)
);

-- Messages that were redelivered so often that they may be what kills hosts, and how often one was being run, alone, when
-- its host died. A row goes when such a run ends in any way.
CREATE TABLE suspects (
    message    text COLLATE "C" PRIMARY KEY,
    runs       integer     NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- Ends a task inside of the transaction of its own SQL, in which the agent's role is logged in. It runs with the host's
-- rights, so it asks for proof that the host calls it: the agent could call it too, and publish whatever it likes. The
-- proof is of this call with these arguments (`host/src/records/postgres/end_task.rs`); repeating it changes nothing,
-- since the task has ended then.
-- Answers whether this is the task's end; if not, it ended before, and the transaction is to be rolled back.
--
-- The session is the agent's, its settings too. So names are not looked for where the agent can make any, texts are
-- compared as UTF-8 whatever `client_encoding` says, and no text in here depends on how strings are quoted.
CREATE FUNCTION end_task(
    proof bytea, ended_id text, ended_agent text, ended_generation integer, ended_revision bigint, ended_attempt bigint,
    ended_output_type text, ended_output bytea, peak bigint, cpu bigint, wall bigint, calls bigint,
    enqueued bigint, started bigint, finished bigint, outgoing_ids uuid[], payloads bytea[], due_after_s double precision
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, agent_host, pg_temp AS
$$
DECLARE
    -- Every argument with its type and its length, the large ones as their hash.
    canonical CONSTANT bytea := record_send(ROW(
        convert_to(ended_id, 'UTF8'), convert_to(ended_agent, 'UTF8'), ended_generation, ended_revision, ended_attempt,
        convert_to(ended_output_type, 'UTF8'), sha256(ended_output), peak, cpu, wall, calls, enqueued, started, finished,
        outgoing_ids, sha256(array_send(payloads)), due_after_s));
    expected bytea;
BEGIN
    SELECT sha256(sha256(password_key || 'end_task outer'::bytea)
            || sha256(sha256(password_key || 'end_task inner'::bytea) || canonical))
        INTO expected FROM agent_host.sql_installation;
    IF expected IS NULL OR proof IS DISTINCT FROM expected THEN
        RAISE insufficient_privilege USING MESSAGE = 'only the host ends tasks';
    END IF;
    -- The delivery is acknowledged once this is committed, so it must be on disk then, whatever the server, the role or
    -- the agent says. (An agent that turns it off once more in a trigger that the commit runs risks its own task.)
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    INSERT INTO tasks AS t (id, agent, generation, revision, status, attempt, output_type, output,
        memory_bytes_peak, cpu_us, wall_us, host_calls, enqueued_at_ms, started_at_ms, finished_at_ms)
    VALUES (ended_id, ended_agent, ended_generation, ended_revision, 3, ended_attempt, ended_output_type, ended_output,
        peak, cpu, wall, calls, enqueued, started, finished)
    ON CONFLICT (id) DO UPDATE SET
        generation = EXCLUDED.generation,
        revision = EXCLUDED.revision,
        status = EXCLUDED.status,
        attempt = EXCLUDED.attempt,
        output_type = EXCLUDED.output_type,
        output = EXCLUDED.output,
        failure_kind = NULL,
        failure_message = NULL,
        memory_bytes_peak = EXCLUDED.memory_bytes_peak,
        cpu_us = EXCLUDED.cpu_us,
        wall_us = EXCLUDED.wall_us,
        host_calls = EXCLUDED.host_calls,
        started_at_ms = EXCLUDED.started_at_ms,
        finished_at_ms = EXCLUDED.finished_at_ms,
        updated_at = now()
    WHERE EXCLUDED.generation > t.generation OR (EXCLUDED.generation = t.generation AND t.status < 3);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO outbox (id, payload, due_at)
    SELECT o.id, o.payload, clock_timestamp() + make_interval(secs => due_after_s)
    FROM unnest(outgoing_ids, payloads) AS o (id, payload);
    RETURN true;
END
$$;
REVOKE ALL ON FUNCTION end_task FROM PUBLIC;
