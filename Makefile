# make run     builds hsup and supervises the example app
# make test    installs what the tests need and runs every check and test
# make ftest driver=simple|abspath    the functional tests with one driver
# make release, make lint, make doc, make clean

driver ?= simple
CARGO ?= cargo
packages = bash bsdutils coreutils e2fsprogs gcc gzip libc6-dev mount python3 squashfs-tools tar util-linux

.PHONY: run build release test setup lint doc unit ftest ftest-simple ftest-abspath clean

run: build
	@command -v python3 >/dev/null || { echo "the example app needs python3: apt-get install python3"; exit 1; }
	cd ftest/example && ../../target/debug/hsup start

build:
	$(CARGO) build

release:
	$(CARGO) build --release

test: setup lint doc unit ftest-simple ftest-abspath

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
	$(CARGO) test --workspace --exclude hsup-ftest --locked

ftest-simple ftest-abspath: ftest-%: build
	FTEST_DRIVER=$* FTEST_REQUIRE=1 $(CARGO) test --package hsup-ftest --locked

ftest: ftest-$(driver)

clean:
	$(CARGO) clean
