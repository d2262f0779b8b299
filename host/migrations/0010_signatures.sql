-- What is said to vouch for a revision's module (`host/src/signature.rs`): an array of {"signature", "image"}. Hosts check it
-- against their own keys whenever they load the revision.
ALTER TABLE revisions ADD COLUMN signatures jsonb NOT NULL DEFAULT '[]';
