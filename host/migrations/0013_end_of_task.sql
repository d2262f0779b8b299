-- `end_task` for hosts that send the commit right behind the call: where this is not the task's end, the call fails, and with it
-- the commit. Hosts call it by its number (PostgreSQL's function call message), without a statement that would have to be
-- parsed and planned for each task. The rest is as 0003_delivery.sql and 0008_one_id_one_agent.sql have it; `end_task` itself
-- stays for hosts that do not know this one yet.
CREATE FUNCTION end_task_now(
    proof bytea, ended_id text, ended_agent text, ended_generation integer, ended_revision bigint, ended_attempt bigint,
    ended_output_type text, ended_output bytea, peak bigint, cpu bigint, wall bigint, calls bigint,
    enqueued bigint, started bigint, finished bigint, outgoing_ids uuid[], payloads bytea[], due_after_s double precision
) RETURNS void
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
    -- Ids are the whole fleet's: another agent's task is not ended, and what this one did is rolled back.
    WHERE t.agent = EXCLUDED.agent
        AND (EXCLUDED.generation > t.generation OR (EXCLUDED.generation = t.generation AND t.status < 3));
    IF NOT FOUND THEN
        RAISE SQLSTATE 'AH001' USING MESSAGE = 'this task has ended before: what it did now is rolled back';
    END IF;
    -- Most tasks send nothing, and planning to insert nothing takes its time too.
    IF cardinality(outgoing_ids) > 0 THEN
        INSERT INTO outbox (id, payload, due_at)
        SELECT o.id, o.payload, clock_timestamp() + make_interval(secs => due_after_s)
        FROM unnest(outgoing_ids, payloads) AS o (id, payload);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION end_task_now FROM PUBLIC;
