# make run     builds hsup and supervises the example app
# make test    installs what the tests need and runs every check and test
# make ftest driver=simple|abspath|native    the functional tests with one driver
# make stack   makes the root file system that native dynos of the tests have, which takes root, and the network once
# make release, make lint, make doc, make clean

driver ?= simple
CARGO ?= cargo
packages = bash bsdutils coreutils debootstrap e2fsprogs gcc gzip iproute2 libc6-dev mount nftables openssl python3 runc \
    squashfs-tools tar util-linux
# What the tests' dynos run, beside what every Debian has.
stack_packages = iproute2,procps,python3
stack_mirror ?= http://deb.debian.org/debian
stack = target/stack/bookworm

.PHONY: run build release test setup lint doc unit ftest ftest-simple ftest-abspath ftest-native stack clean

run: build
	@command -v python3 >/dev/null || { echo "the example app needs python3: apt-get install python3"; exit 1; }
	cd ftest/example && ../../target/debug/hsup start

build:
	$(CARGO) build

# One static binary, at the address that it was linked for: there is no library to find and map, and nothing to
# relocate, each time that it is started.
release:
	$(CARGO) rustc --release --locked --package hsup --bin hsup -- \
	    -C target-feature=+crt-static -C relocation-model=static

test: setup lint doc unit ftest-simple ftest-abspath ftest-native

# Only what is missing is installed, so that a machine that has everything needs no network.
setup:
	@missing=$$(dpkg-query -W -f '$${db:Status-Status} $${Package}\n' $(packages) 2>/dev/null | sed -n 's/^installed //p'); \
	for p in $(packages); do echo "$$missing" | grep -qx $$p || want="$$want $$p"; done; \
	if [ -n "$$want" ]; then \
	    if [ "$$(id -u)" = 0 ]; then sudo=; else sudo=sudo; fi; \
	    $$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$want; \
	fi

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

unit:
	FTEST_REQUIRE=1 $(CARGO) test --workspace --exclude hsup-ftest --locked

ftest-native: stack

ftest-simple ftest-abspath ftest-native: ftest-%: build
	FTEST_DRIVER=$* FTEST_REQUIRE=1 $(CARGO) test --package hsup-ftest --locked

ftest: ftest-$(driver)

# Made under another name first, so that it is whole or not there; nothing is downloaded twice.
stack: $(stack)

$(stack):
	rm -rf $@.new && mkdir -p $(dir $@)
	debootstrap --variant=minbase --include=$(stack_packages) bookworm $@.new $(stack_mirror)
	rm -rf $@.new/var/cache/apt/archives/*.deb $@.new/var/lib/apt/lists/*
	mkdir -p $@.new/app
	mv $@.new $@

clean:
	$(CARGO) clean
