CREATE TABLE proposals (
    id         text PRIMARY KEY,
    title      text NOT NULL,
    voters     integer NOT NULL CHECK (voters > 0),
    quorum     integer NOT NULL CHECK (quorum BETWEEN 1 AND 100),
    yes        integer NOT NULL DEFAULT 0,
    no         integer NOT NULL DEFAULT 0,
    status     text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'accepted', 'rejected')),
    -- Whose vote decided it, and when: set once, together with the status.
    decided_by text,
    decided_at timestamptz
);

-- The primary key is the rule: one vote per voter and proposal.
CREATE TABLE votes (
    proposal text NOT NULL REFERENCES proposals (id),
    voter    text NOT NULL,
    choice   text NOT NULL CHECK (choice IN ('yes', 'no')),
    cast_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (proposal, voter)
);
