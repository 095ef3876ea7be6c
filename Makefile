# make run     builds hsup and supervises the example app
# make test    installs what the tests need and runs every check and test
# make static  the same as make release: the hsup that runs on any Linux, and in any image
# make image   makes the image `hsup` for `docker run --privileged -it hsup`
# make ftest driver=simple|abspath|docker|native         the functional tests with one driver, in a privileged container
# make ftest-local driver=simple|abspath|docker|native   the same on this host, without a container
# make stack   makes the root file systems of the tests, which takes root, and the network once
# make venv    installs the Python programs of the tests below target/, which takes the network once
# make engine  unpacks Debian's Docker Engine beside them, for tests where DOCKER_HOST names none
# make install DESTDIR= PREFIX=/usr/local hsup=target/release/hsup    the program, its units, man pages and completions
# make deb     the same as a Debian package, below target/
# make release, make lint, make doc, make clean

driver ?= simple
CARGO ?= cargo
packages = bash bsdutils coreutils debootstrap e2fsprogs gcc gzip iproute2 libc6-dev libdevmapper1.02.1 mount nftables \
    openssl procps python3 python3-venv runc squashfs-tools systemd tar util-linux wrk
# What the tests' dynos run, beside what every Debian has.
stack_packages = iproute2,procps,python3
stack_mirror ?= http://deb.debian.org/debian
stack = target/stack/bookworm
# What the container has in which the functional tests run.
host_packages = bash,bsdutils,ca-certificates,e2fsprogs,gzip,iproute2,libdevmapper1.02.1,mount,nftables,openssl,procps,python3,runc,squashfs-tools,util-linux,wrk
host = target/stack/host
# Debian's, unpacked and not installed: an installed one would be started, and change the host's packet filter.
engine_packages = containerd docker-registry docker.io
engine = target/engine
# Programs in Python that the tests need, and a file that says that all of them are there.
venv = target/venv/complete

# The tests as programs that run in a container, whatever the C library of this host is.
target_triple = $(shell rustc -vV | sed -n 's/^host: //p')
static_tests = RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) test --profile ftest --package hsup-ftest --locked \
    --target $(target_triple) --target-dir target/static --no-run --message-format=json

# A command with an engine: the one that DOCKER_HOST names, else one of its own, which ends with the command.
with_engine = $(if $(DOCKER_HOST),,FTEST_STACK=$(CURDIR)/$(stack) target/debug/engine)
# The functional tests that are about the docker driver, or hold for it as for every other.
docker_tests = checks control_api daemons death docker_dynos docker_engine docker_images drain events formation health \
    logs_command operate rollout run slugs stop terminal

drivers = simple abspath docker native

.PHONY: run build release static static-ftest image test setup lint doc unit ftest ftest-local $(drivers:%=ftest-%) \
    $(drivers:%=ftest-local-%) stack engine venv install deb clean

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

# The package is installed in a root of its own.
ftest-local-simple ftest-local-native: stack

ftest-local-simple: venv

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

venv: $(venv)

# Made anew when what it is to hold has changed; like the others it is whole or not there.
$(venv): ftest/requirements.txt
	rm -rf $(dir $@)
	python3 -m venv $(dir $@)
	$(dir $@)bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

engine: $(engine)

$(engine):
	rm -rf $@.new && mkdir -p $@.new/packages
	cd $@.new/packages && { apt-get download -qq $(engine_packages) || \
	    { apt-get update -qq && apt-get download -qq $(engine_packages); }; }
	for package in $@.new/packages/*.deb; do dpkg -x $$package $@.new; done
	rm -r $@.new/packages
	mv $@.new $@
# What is installed, and where; DESTDIR is where the root of the host is meanwhile.
hsup ?= target/release/hsup
PREFIX ?= /usr/local
zsh_dir ?= $(PREFIX)/share/zsh/site-functions
units = hsup.service hsup@.service hsup@.socket

target/release/hsup:
	$(MAKE) release

# A unit names the program where it is.
install: $(hsup)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)$(zsh_dir) \
	    $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/bash-completion/completions \
	    $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	install -m 0755 $(hsup) $(DESTDIR)$(PREFIX)/bin/hsup
	$(hsup) man $(DESTDIR)$(PREFIX)/share/man/man1
	$(hsup) completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/hsup
	$(hsup) completions fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/hsup.fish
	$(hsup) completions zsh > $(DESTDIR)$(zsh_dir)/_hsup
	for unit in $(units); do \
	    sed 's|/usr/bin/hsup|$(PREFIX)/bin/hsup|' systemd/$$unit > $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit || exit; \
	done

deb_root ?= target/deb
deb_version := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' Cargo.toml | head -1)
deb ?= target/hsup_$(deb_version)_$(shell dpkg --print-architecture 2>/dev/null).deb

# What the package depends on is read off the program: the newest version of the C library that it asks for, or nothing.
deb: $(hsup)
	rm -rf $(deb_root)
	umask 022 && $(MAKE) install DESTDIR=$(deb_root) PREFIX=/usr hsup=$(hsup) \
	    zsh_dir=/usr/share/zsh/vendor-completions
	gzip -9n $(deb_root)/usr/share/man/man1/*.1
	install -d $(deb_root)/usr/share/doc/hsup $(deb_root)/DEBIAN
	install -m 0644 LICENSE $(deb_root)/usr/share/doc/hsup/copyright
	install -d -m 0750 $(deb_root)/etc/hsup
	install -m 0640 systemd/hsup.env $(deb_root)/etc/hsup/hsup.env
	echo /etc/hsup/hsup.env > $(deb_root)/DEBIAN/conffiles
	install -m 0755 systemd/debian/postinst systemd/debian/prerm systemd/debian/postrm $(deb_root)/DEBIAN
	cd $(deb_root) && find usr -type f -print0 | sort -z | xargs -0 md5sum > DEBIAN/md5sums
	libraries=$$(ldd $(hsup) 2>&1 || true); depends=; \
	case $$libraries in *libc.so*) \
	    glibc=$$(grep -ao 'GLIBC_2\.[0-9]*' $(hsup) | sort -uV | tail -1); \
	    depends="Depends: libc6 (>= $${glibc#GLIBC_})"; \
	    case $$libraries in *libgcc_s*) depends="$$depends, libgcc-s1";; esac;; \
	esac; \
	sed -e 's/@VERSION@/$(deb_version)/' -e "s/@ARCHITECTURE@/$$(dpkg --print-architecture)/" \
	    -e "s/@SIZE@/$$(du -sk --exclude DEBIAN $(deb_root) | cut -f1)/" \
	    -e "s/@DEPENDS@/$$depends/" systemd/debian/control | sed '/^$$/d' > $(deb_root)/DEBIAN/control
	dpkg-deb --root-owner-group $(deb_flags) --build $(deb_root) $(deb)

clean:
	$(CARGO) clean
