# Every target works as the first command on a fresh Debian 12 with Go and git, as root.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

LINT_VERSION := v2.12.2
LINT := bin/golangci-lint-$(LINT_VERSION)
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.1.0-dev)
FUZZTIME ?= 30s
SMOKE ?= 2000x
BENCHTIME ?= 3x
SOAK ?= 30m
SEED ?=

# What is built leaves out a codec that nobody here speaks and that takes long to compile; gin brings it.
export GOFLAGS := $(filter-out -tags=nomsgpack,$(GOFLAGS)) -tags=nomsgpack

# Tests; vet is a target of its own, part of check. The compiler spends a quarter less where it need not spare memory; what it
# has made runs as anywhere.
run_tests := env GOGC=400 go test -vet=off -count=1 -exec 'env -u GOGC'

# Packages that need libvirt or the lab, themselves or for their tests; asked for when a recipe runs, for before deps the
# list cannot be made.
list_real = go list -test -f '{{.ImportPath}} {{join .Deps " "}}' ./... | awk '/libvirt\.org\/go\/libvirt( |$$)|hypervisors\/kvm\/lab( |$$)/ {sub(/(_test|\.test)$$/, "", $$1); print $$1}' | sort -u

# Of the console: what Vite reads, and where npm leaves a mark.
ui_sources := $(shell find ui/src ui/public -type f 2>/dev/null) ui/index.html ui/vite.config.ts ui/tsconfig.json
ui_packages := ui/node_modules/.package-lock.json

receivers := snmptrapd rsyslog rsyslog-gnutls smitools python3-aiosmtpd slapd

.PHONY: convert deb computed esx labs whole moments help deps receivers browser ui ui-test build demo demo-esx test check fmt vet lint race race-esx simulate drift crash soak bench fuzz smoke faults clean

help: ## list all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install the Debian packages that are missing
	@hypervisors/kvm/lab/install.sh

ui: ui/dist/index.html ## build the web console, which is embedded in the program

ui/dist/index.html: $(ui_packages) $(ui_sources)
	cd ui && npm run build

# Scripts of packages are not run: nothing that is used here needs them.
$(ui_packages): ui/package-lock.json | deps
	cd ui && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

ui-test: $(ui_packages) ## the console: types against the API, words, and the logic of its cache
	cd ui && npm run types -- --check && npx tsc && npm test

# Servers that the tests run as children of their own; none is started or configured on this machine itself.
receivers: deps ## install the Debian packages of the servers that notifications and sign-in are tested against
	@hypervisors/kvm/lab/install.sh $(receivers)

build: deps ui ## build bin/understudy
	go build -ldflags '-X main.version=$(VERSION)' -o bin/understudy ./appliance

deb: build ## bin/understudy.deb, a Debian package of the appliance
	appliance/debian/build.sh bin/understudy '$(VERSION)' bin/understudy.deb

demo: build ## protect, test, fail over and back between two real hosts; HEADLESS=1 ends by itself
	@go build -o bin/demo ./appliance/demo
	@bin/demo $(if $(HEADLESS),--headless) --understudy bin/understudy

demo-esx: build ## protect a machine of a simulated ESX host on KVM, where it boots, and fail back; HEADLESS=1 ends by itself
	@go build -o bin/demo ./appliance/demo
	@bin/demo --esx $(if $(HEADLESS),--headless) --understudy bin/understudy

# Labs wait for their guests now and then. So two run at a time, and what computes beside them takes what they leave.
test: ## all tests: pure Go with the race detector, KVM on a real lab, every fuzz target for a moment
	@hypervisors/kvm/lab/install.sh $(receivers) chromium
	@$(MAKE) --no-print-directory --jobs=3 labs whole computed

computed: ui
	@nice -n 10 $(MAKE) --no-print-directory race
	@CYCLES=2000 nice -n 10 $(MAKE) --no-print-directory --jobs=2 esx simulate moments smoke ui-test

race: deps receivers ## tests of the packages that need no libvirt, with the race detector
	@real=$$($(list_real)); all=$$(go list ./... | sort); pure=$$(comm -23 <(echo "$$all") <(echo "$$real") | grep -v /hypervisors/esx$$); \
	set -x; $(run_tests) -race -timeout 30m $$pure; $(run_tests) -race -timeout 30m ./hypervisors/esx -skip Conformance

# The race detector takes five times as long with it: that has a target of its own.
esx: deps ## the suite on the ESX simulator
	$(run_tests) -timeout 30m ./hypervisors/esx -run 'Conformance|KilledTarget'

race-esx: deps ## the suite on the ESX simulator, with the race detector
	$(run_tests) -race -timeout 30m ./hypervisors/esx -run Conformance

# CYCLES=n runs so many; only ten thousand are enough to expect that everything has happened.
simulate: deps ## ten thousand cycles with random faults on fake hosts, in simulated time; SEED=n repeats a run exactly
	$(if $(SEED),SEED=$(SEED) )$(run_tests) -v ./appliance/replication -run 'Simulation$$'

moments: deps ## kills, power failures and previews at more moments than the race detector has time for; KILL=all kills at each
	$(run_tests) -timeout 3h ./appliance/replication -run 'KillAtEveryStep|PowerFailure|PreviewAndOrderAgree'

# One package at a time, the longest first: each has a lab of its own, and its guests are emulated. These need no console:
# they run while it is built.
labs: deps ## tests against real libvirt hosts and guests, but for those of the whole appliance
	@real=$$($(list_real) | grep -v /appliance$$ | sort -r); set -x; $(run_tests) -timeout 30m -p 1 $$real

# Gentler than the labs beside it, which take longest of all.
whole: ui browser ## tests of the whole appliance on real hosts, and of the console in a browser
	nice -n 5 $(run_tests) -timeout 30m ./appliance

browser: ## install the browser that tests of the console use
	@hypervisors/kvm/lab/install.sh chromium

check: deps fmt vet lint ui-test race esx race-esx drift ## format, vet, lint, race tests, drift

fmt: ## fail where gofmt would change something
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "not formatted:"; echo "$$files"; exit 1; fi

vet: deps ## go vet
	go vet ./...

lint: deps $(LINT) ## golangci-lint, pinned
	$(LINT) run ./...

$(LINT):
	GOBIN=$(CURDIR)/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv bin/golangci-lint $@

# Routes against the contract, floors against imports, go.mod against the code.
drift: deps ## what is generated or promised, against the code
	$(run_tests) ./api/... .
	go mod verify
	go mod tidy -diff

crash: deps ## kill the daemon at every step of every job, then at random, on fake and real hosts; SEED=n repeats a run
	@mkdir -p bin; go test -c -o bin/crash.test ./appliance
	@cd appliance && $(if $(SEED),SEED=$(SEED),CRASH=all) ../bin/crash.test -test.run '^TestCrash' -test.timeout 3h -test.parallel 4

soak: build ## protect a guest with 5 s cycles through random faults for SOAK; SEED=n repeats the faults
	@go build -o bin/soak ./appliance/soak
	@bin/soak --understudy bin/understudy --for $(SOAK) $(if $(SEED),--seed $(SEED))

bench: deps ui ## measure against the peers in the same run, ROW=P2 for one row; the hot paths alone before
	@hypervisors/kvm/lab/install.sh rsync virtnbdbackup chromium
	$(if $(ROW),,go test -run '^$$' -bench . -benchtime $(BENCHTIME) -timeout 30m ./snapshot/...)
	go run ./appliance/bench -row '$(ROW)'

# Fuzz targets, each as its folder and its name. They are read from the source: to ask the packages for them would build all
# of them, and start a lab.
list_fuzz = grep -roE '^func Fuzz[A-Za-z0-9]+' --include='*_test.go' . | sort | sed 's|/[^/]*:func | |'

fuzz: deps ## fuzz every fuzz target for FUZZTIME
	@$(list_fuzz) | while read -r dir f; do echo "$$dir $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) "$$dir"; done

# Counted and not timed, so that a slow machine does the same; and built as other tests are: to build everything once more
# with counters, so that coverage guides the inputs, takes longer than so few of them are worth.
smoke: deps ## fuzz every fuzz target for a moment
	@mkdir -p bin; cache=$$(mktemp -d); trap 'rm -rf "$$cache"' EXIT; built=; \
	$(list_fuzz) | while read -r dir f; do \
		[ "$$dir" = "$$built" ] || go test -c -o bin/fuzz.test "$$dir"; built=$$dir; \
		echo "$$dir $$f"; (cd "$$dir" && $(CURDIR)/bin/fuzz.test -test.run '^$$' -test.fuzz "^$$f\$$" -test.fuzztime $(SMOKE) -test.fuzzcachedir "$$cache"); \
	done

# libguestfs, by which virt-v2v works, starts the kernel of the machine that it is on.
convert: deps ## a real guest looked into, and converted by the real virt-v2v, for a replica on devices that it has no driver for
	@hypervisors/kvm/lab/install.sh virt-v2v mmdebstrap $$(compgen -G '/boot/vmlinuz-*' >/dev/null || echo linux-image-cloud-amd64)
	CONVERT=1 $(run_tests) -v -timeout 60m -run TestReal ./provisioning/linux
	CONVERT=1 $(run_tests) -v -timeout 60m -run TestRealConversion ./hypervisors/kvm

faults: deps ## every fault of hosts, storage and connections on the lab, also those that wait for time limits
	FAULTS=all $(run_tests) -timeout 60m -run TestFaults -v ./appliance

clean: ## remove what was built, and what labs keep between runs
	rm -rf bin ui/node_modules ui/dist/assets ui/dist/index.html "$${XDG_CACHE_HOME:-$$HOME/.cache}/understudy-lab"
