-- The deployed agents (`host/src/catalog/postgres.rs`).

-- One row per agent: the lock under which its revisions are numbered, and the one that is active.
CREATE TABLE agents (
    agent           text COLLATE "C" PRIMARY KEY,
    revision_last   bigint NOT NULL DEFAULT 0,
    revision_active bigint
);

-- Modules by what they hold, in parts, so that neither side ever needs a second whole copy of a large one in memory.
CREATE TABLE modules (
    digest text COLLATE "C" NOT NULL,
    part   integer          NOT NULL,
    bytes  bytea            NOT NULL,
    PRIMARY KEY (digest, part)
);
ALTER TABLE modules ALTER COLUMN bytes SET STORAGE EXTERNAL;

CREATE TABLE revisions (
    agent         text COLLATE "C" NOT NULL REFERENCES agents,
    revision      bigint           NOT NULL,
    digest        text             NOT NULL,
    module_bytes  bigint           NOT NULL,
    manifest      text             NOT NULL,
    -- An array of {"name", "sql"}, in order.
    migrations    jsonb            NOT NULL,
    created_at_ms bigint           NOT NULL,
    PRIMARY KEY (agent, revision)
);

ALTER TABLE agents
    ADD CONSTRAINT agents_active FOREIGN KEY (agent, revision_active) REFERENCES revisions (agent, revision);
