-- What operators do with deployed agents, fleet-wide (`host/src/catalog/postgres.rs`).

ALTER TABLE agents
    -- What was active before, for a rollback.
    ADD COLUMN revision_previous bigint,
    -- A newer revision that gets this percentage of new tasks.
    ADD COLUMN canary bigint,
    ADD COLUMN canary_percent smallint,
    ADD COLUMN is_paused boolean NOT NULL DEFAULT false,
    -- How often the agent was changed: what a host has applied, and what canary counts belong to.
    ADD COLUMN change bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT agents_canary FOREIGN KEY (agent, canary) REFERENCES revisions (agent, revision),
    ADD CONSTRAINT agents_previous FOREIGN KEY (agent, revision_previous) REFERENCES revisions (agent, revision);

-- How first attempts ended while traffic was split, summed over all hosts. Rows of earlier splits go with the next change.
CREATE TABLE canary_counts (
    agent     text COLLATE "C" NOT NULL,
    change    bigint           NOT NULL,
    revision  bigint           NOT NULL,
    succeeded bigint           NOT NULL,
    failed    bigint           NOT NULL,
    PRIMARY KEY (agent, change, revision)
);

-- Everything that somebody changed: who, what, when. Rows are only ever added, and forgotten after a year.
CREATE TABLE events (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_ms  bigint NOT NULL,
    actor  text   NOT NULL,
    host   text   NOT NULL,
    action text   NOT NULL,
    agent  text COLLATE "C",
    detail text   NOT NULL
);
CREATE INDEX events_of_agent ON events (agent, id DESC);
