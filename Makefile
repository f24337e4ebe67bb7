# What a newcomer types. Every target installs what it needs, and says so.
.PHONY: help run test bench lint fuzz soak clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

run: ## the whole system in one process, state in ./data
	cargo run --release

test: ## every test: unit, property, end to end with real processes
	scripts/need cc python3 chromium
	cargo build --workspace --bins
	scripts/test

lint: ## formatting, clippy, spelling, the arrows between crates and the licences
	scripts/need cc python3 typos cargo-deny
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	scripts/with-tools typos
	scripts/with-tools cargo deny --workspace --offline check bans licenses sources

bench: ## criterion benches, then the load scenarios of docs/benchmarks.md
	scripts/need cc
	scripts/bench

fuzz: ## every fuzz target for FUZZ_RUNS runs (default 1,000,000)
	scripts/need cc
	scripts/fuzz.sh $${FUZZ_RUNS:-1000000}

soak: ## 5 minutes at 10,000 connections and 50,000 deliveries a second
	scripts/soak

clean: ## build output and the development data
	cargo clean
	rm -rf data
