-- How far each host of the fleet follows the agents' changes (`host/src/catalog/postgres/fleet.rs`). A host writes its row every
-- few seconds while it is there, and removes it when it stops.
CREATE TABLE hosts (
    host        text COLLATE "C" PRIMARY KEY,
    -- By agent: {"change", "error"}.
    agents      jsonb       NOT NULL,
    reported_at timestamptz NOT NULL
) WITH (fillfactor = 50);
