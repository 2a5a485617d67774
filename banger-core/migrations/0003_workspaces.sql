-- The workspace that was last prepared in a VM: where it lies, what it was made of, and what it is compared with.
CREATE TABLE workspaces (
    vm_id       TEXT PRIMARY KEY NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    workspace   TEXT NOT NULL CHECK (json_valid(workspace)),
    prepared_at TEXT NOT NULL
) STRICT;
