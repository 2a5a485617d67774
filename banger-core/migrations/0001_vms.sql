-- One row a VM: what it is and what was last promised of it. What is true right now is never in here.
CREATE TABLE vms (
    id         TEXT PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL UNIQUE,
    image      TEXT NOT NULL,
    spec       TEXT NOT NULL CHECK (json_valid(spec)),
    runtime    TEXT NOT NULL CHECK (json_valid(runtime)),
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    -- Names of host objects are made of the first 12 digits of the id: no two VMs may share them.
    short_id   TEXT GENERATED ALWAYS AS (substr(id, 1, 12)) VIRTUAL,
    state      TEXT GENERATED ALWAYS AS (runtime ->> '$.state') VIRTUAL
        CHECK (state IN ('created', 'running', 'stopped', 'error'))
) STRICT;

CREATE UNIQUE INDEX vms_short_id ON vms (short_id);
CREATE INDEX vms_image ON vms (image);
