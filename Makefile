# make run     builds hsup and supervises the example app
# make test    installs what the tests need and runs every check and test
# make static  the same as make release: the hsup that runs on any Linux, and in any image
# make image   makes the image `hsup` for `docker run --privileged -it hsup`
# make ftest driver=simple|abspath|docker|native         the functional tests with one driver, in a privileged container
# make ftest-local driver=simple|abspath|docker|native   the same on this host, without a container
# make stack   makes the root file systems of the tests, which takes root, and the network once
# make engine  unpacks Debian's Docker Engine beside them, for tests where DOCKER_HOST names none
# make release, make lint, make doc, make clean

driver ?= simple
CARGO ?= cargo
packages = bash bsdutils coreutils debootstrap e2fsprogs gcc gzip iproute2 libc6-dev libdevmapper1.02.1 mount nftables \
    openssl procps python3 runc squashfs-tools tar util-linux
# What the tests' dynos run, beside what every Debian has.
stack_packages = iproute2,procps,python3
stack_mirror ?= http://deb.debian.org/debian
stack = target/stack/bookworm
# What the container has in which the functional tests run.
host_packages = bash,bsdutils,ca-certificates,e2fsprogs,gzip,iproute2,libdevmapper1.02.1,mount,nftables,openssl,procps,python3,runc,squashfs-tools,util-linux
host = target/stack/host
# Debian's, unpacked and not installed: an installed one would be started, and change the host's packet filter.
engine_packages = containerd docker-registry docker.io
engine = target/engine

# The tests as programs that run in a container, whatever the C library of this host is.
target_triple = $(shell rustc -vV | sed -n 's/^host: //p')
static_tests = RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) test --profile ftest --package hsup-ftest --locked \
    --target $(target_triple) --target-dir target/static --no-run --message-format=json

# A command with an engine: the one that DOCKER_HOST names, else one of its own, which ends with the command.
with_engine = $(if $(DOCKER_HOST),,FTEST_STACK=$(CURDIR)/$(stack) target/debug/engine)
# The functional tests that are about the docker driver, or hold for it as for every other.
docker_tests = control_api daemons death docker_dynos docker_engine docker_images drain formation logs_command run slugs stop \
    terminal

drivers = simple abspath docker native

.PHONY: run build release static static-ftest image test setup lint doc unit ftest ftest-local $(drivers:%=ftest-%) \
    $(drivers:%=ftest-local-%) stack engine clean

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

static: release

test: setup lint doc unit ftest-local-simple ftest-local-abspath ftest-local-docker ftest-native

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

# On this host, without Docker but for the docker driver.
ftest-local: ftest-local-$(driver)

ftest-local-native: stack

ftest-local-simple ftest-local-abspath ftest-local-native: ftest-local-%: build
	FTEST_DRIVER=$* FTEST_REQUIRE=1 $(CARGO) test --package hsup-ftest --locked

# The tests are built first: where they run there is no network to fetch anything from.
ftest-local-docker: build static-ftest stack engine
	$(CARGO) build --package hsup-ftest --locked
	$(CARGO) test --package hsup-ftest --locked --no-run
	FTEST_DRIVER=docker FTEST_REQUIRE=1 FTEST_BIN=$(CURDIR)/target/ftest/hsup $(with_engine) \
	    $(CARGO) test --package hsup-ftest --locked --offline --no-fail-fast $(docker_tests:%=--test %)

# The same binary, not optimised: it is compiled in a fraction of the time.
static-ftest:
	$(CARGO) rustc --profile ftest --locked --package hsup --bin hsup -- \
	    -C target-feature=+crt-static -C relocation-model=static

# In a privileged container.
ftest: ftest-$(driver)

tests = target/in-container

$(drivers:%=ftest-%): ftest-%: build static-ftest stack engine $(host)
	$(CARGO) build --package hsup-ftest --locked
	rm -rf $(tests) && mkdir -p $(tests)
	$(static_tests) > $(tests).json
	python3 docker/copy-tests $(tests) < $(tests).json
	cp target/ftest/hsup $(tests)
	DRIVER=$* TESTS=$(tests) NAMES="$(if $(filter docker,$*),$(docker_tests))" $(with_engine) docker/in-container

# The image that `docker run --privileged -it hsup` runs.
image: static
	docker/build-image target/release/hsup

# Made under another name first, so that it is whole or not there; nothing is downloaded twice.
stack: $(stack)

$(stack): include = $(stack_packages)
$(host): include = $(host_packages)

$(stack) $(host):
	rm -rf $@.new && mkdir -p $(dir $@)
	debootstrap --variant=minbase --include=$(include) bookworm $@.new $(stack_mirror)
	rm -rf $@.new/var/cache/apt/archives/*.deb $@.new/var/lib/apt/lists/*
	mkdir -p $@.new/app
	mv $@.new $@

engine: $(engine)

$(engine):
	rm -rf $@.new && mkdir -p $@.new/packages
	cd $@.new/packages && { apt-get download -qq $(engine_packages) || \
	    { apt-get update -qq && apt-get download -qq $(engine_packages); }; }
	for package in $@.new/packages/*.deb; do dpkg -x $$package $@.new; done
	rm -r $@.new/packages
	mv $@.new $@

clean:
	$(CARGO) clean
