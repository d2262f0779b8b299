-- Secrets that operators set for agents (`host/src/secrets/postgres.rs`), sealed with a key that only hosts have.
CREATE TABLE secrets (
    agent     text COLLATE "C" NOT NULL,
    name      text COLLATE "C" NOT NULL,
    -- A hash of the key that it is sealed with: tells another key from a damaged row.
    key_id    bytea  NOT NULL,
    -- New with every write.
    nonce     bytea  NOT NULL,
    -- AES-256-GCM; the agent's and the secret's name are in what it authenticates.
    sealed    bytea  NOT NULL,
    set_at_ms bigint NOT NULL,
    set_by    text   NOT NULL,
    PRIMARY KEY (agent, name)
);

-- One row: how often a secret was set or removed. Hosts look at it every few seconds, and at the rest where it has moved on.
CREATE TABLE secret_changes (changes bigint NOT NULL);
INSERT INTO secret_changes VALUES (0);
