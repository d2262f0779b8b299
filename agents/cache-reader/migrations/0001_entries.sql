-- What the cache stands in front of. A value is never changed, so that a cached copy is never wrong.
CREATE TABLE entries (
    key        text PRIMARY KEY,
    value      text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
