-- What kinds of work there are, and what a unit of each costs. Read often, changed by hand.
CREATE TABLE kinds (
    name   text PRIMARY KEY,
    weight integer NOT NULL CHECK (weight > 0)
);

INSERT INTO kinds (name, weight) VALUES ('default', 1), ('email', 2), ('report', 5);

-- One row per task: the primary key is what makes a task that comes twice count once.
CREATE TABLE processed (
    task_id      text PRIMARY KEY,
    kind         text NOT NULL,
    units        bigint NOT NULL,
    cost         bigint NOT NULL,
    payload      jsonb NOT NULL,
    attempt      integer NOT NULL,
    processed_at timestamptz NOT NULL DEFAULT now()
);
