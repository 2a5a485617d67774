# Everything that this project does, in words that say what they do. `make` lists them.

CARGO ?= cargo
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
export CARGO_TERM_COLOR ?= auto

.PHONY: help setup build run test check bench chaos fuzz lab lab-full
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## install what is missing (Debian packages)
	@scripts/setup

build: setup ## build the command and the daemon
	$(CARGO) build --release -p banger-cli -p banger-daemon

run: build ## boot a VM, run a command in it, delete it
	PATH="$(TARGET)/release:$$PATH" scripts/first-run

check: ## format, lints and documentation, without running a test
	$(CARGO) fmt --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@# As those have it who embed the engine: without device-mapper.
	$(CARGO) clippy -p banger-core --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet

test: setup check lab ## all tests, those that boot real VMs and those in the lab included
	@# A run in the background has INT and QUIT ignored, one under nohup HUP, and all that is started in it inherits that.
	env --default-signal=INT,QUIT,HUP $(CARGO) test --workspace --no-fail-fast -- --show-output

fuzz: setup ## the decoders of foreign bytes, long (PROPTEST_CASES each; in `make test` they run short)
	PROPTEST_CASES=$${PROPTEST_CASES:-200000} $(CARGO) test --release --workspace --lib --tests -- fuzz

chaos: setup ## two hundred kills at random moments on real VMs (BANGER_CHAOS_SEED replays)
	env --default-signal=INT,QUIT,HUP $(CARGO) run -p banger-tests --bin chaos

lab: setup ## the tests that need root, KVM and device-mapper, in a VM of their own (LAB_TESTS chooses by name)
	$(CARGO) build --workspace --bins
	env --default-signal=INT,QUIT,HUP $(TARGET)/debug/lab $(LAB_TESTS)

lab-full: ## the same, over every combination of monitor, disk and network
	BANGER_TEST_ALL=1 $(MAKE) lab

bench: build ## cold boot, exec and ps against bare equivalents; a thousand VMs reconciled
	$(CARGO) run --release -p banger-tests --bin bench
