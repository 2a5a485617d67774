-- One row a guest session, for as long as it is not deleted. What the guest has of it is the truth; `state` is
-- what was last seen of that.
CREATE TABLE guest_sessions (
    id         TEXT PRIMARY KEY NOT NULL,
    vm_id      TEXT NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    name       TEXT NOT NULL,
    spec       TEXT NOT NULL CHECK (json_valid(spec)),
    state      TEXT NOT NULL CHECK (json_valid(state)),
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    UNIQUE (vm_id, name)
) STRICT;
