# The two commands a newcomer needs are `make run` and `make test`; `make help` lists the rest.
SHELL := /bin/bash
# Expanded by the shell after scripts/env.sh, which may choose a build folder outside the checkout.
BINARY := "$${CARGO_TARGET_DIR:-target}/release/quarterdeck"

.PHONY: help setup build run test lint chaos fuzz bench install clean-run

help: ## This list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## Install what is missing on Debian or Ubuntu (compiler, clang headers, containerd, runc, CNI plugins, nftables)
	@scripts/setup.sh

build: setup ## Build the one binary
	@. scripts/env.sh && cargo build --release -p quarterdeck

run: build ## Three servers and a node on this machine, with the examples applied; Ctrl-C ends it
	@. scripts/env.sh && exec $(BINARY) up --examples examples

test: setup ## Unit, integration and end-to-end tests
	@. scripts/env.sh && scripts/test.sh

lint: ## Formatting, layering and tidy checks, licences, advisories, systemd units, clippy
	@. scripts/env.sh && scripts/lint.sh

chaos: build ## The long fault-injection run (MINUTES=60, SEED=…)
	@scripts/chaos.sh

fuzz: setup ## The fuzz targets under libFuzzer (SECONDS=60 each)
	@scripts/fuzz.sh $(or $(SECONDS),60)

bench: build ## Benchmarks beside upstream
	@. scripts/env.sh && cargo run --release -p bench -- --help

install: build ## Binary, systemd units, configuration samples and completion into /usr/local and /etc (DESTDIR is honoured)
	@packaging/install.sh

clean-run: ## Remove the cluster that `make run` left in .run
	@. scripts/env.sh && $(BINARY) up --clean
