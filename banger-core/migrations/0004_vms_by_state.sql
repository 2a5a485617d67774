-- Most rest, and those that run are asked for most.
CREATE INDEX vms_state ON vms (state);
