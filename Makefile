# What a newcomer types. Every target installs what it needs, and says so.
.PHONY: help run cluster test bench baseline lint fuzz soak attack faults clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

run: ## the whole system in one process, state in ./data
	cargo run --release

cluster: ## two routers, three gateways and a Redis on this machine, until Ctrl-C
	scripts/need cc python3 redis-server
	scripts/cluster

test: ## every test: unit, property, end to end with real processes; and that no hot path takes more instructions than before
	scripts/need cc python3 venv aioquic npm chromium redis-server mariadbd faketime valgrind ip hadolint yamllint cryptography systemd-analyze
	cargo build --workspace --bins
	scripts/with-tools target/tools/python/bin/python scripts/lint-deploy target/debug/billfish
	scripts/test
	scripts/instructions

lint: ## formatting, clippy, spelling, the arrows between crates and the licences
	scripts/need cc python3 typos cargo-deny hadolint yamllint systemd-analyze
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	scripts/with-tools typos
	scripts/with-tools target/tools/python/bin/python scripts/lint-deploy
	cargo fetch --locked
	scripts/with-tools cargo deny --workspace --offline check bans licenses sources

bench: ## the load scenarios, 5 times each, and the tables of docs/benchmarks.md: an hour and a half; goes on where it was stopped. The criterion benches: cargo bench
	scripts/need cc python3 redis-server
	scripts/bench

baseline: ## accepts the instruction counts of this tree: what `make test` will compare with
	scripts/need cc python3 valgrind
	scripts/instructions --accept

fuzz: ## every fuzz target for FUZZ_RUNS runs (default 1,000,000)
	scripts/need cc
	scripts/fuzz.sh $${FUZZ_RUNS:-1000000}

soak: ## 5 minutes at 10,000 connections and 50,000 deliveries a second
	scripts/soak

attack: ## 5,000 slow strangers, a flood of logins and floods of messages against 3,000 good logins; then 1,000 slow readers in a room of 10,000
	scripts/need cc
	scripts/attack

faults: ## every fault of docs/faults.md, FAULT_REPEATS times each (default 20) in FAULT_LANES lanes (default 4): an hour; goes on where it was stopped
	scripts/need cc redis-server mariadbd faketime nft ip
	cargo build --release --bin billfish
	cargo run --release -p billfish-faults -- run --all --lanes $${FAULT_LANES:-4} --repeats $${FAULT_REPEATS:-20} --markdown target/faults/table.md

clean: ## build output and the development data
	cargo clean
	rm -rf data
