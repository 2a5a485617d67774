//! Real VMs.
