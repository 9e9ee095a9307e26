# make demo        everything: set-up, a Debian 12 root, recorded boots, packs, and the table of boots
# make demo-large  the same with an image of more than 1 GB that starts real services
# make demo-vm     the flow in virtual machines: recorded in QEMU, booted from the pack over HTTP, against fetch-all
# make check       format, vet, staticcheck and the fast tests, within two minutes; needs no root
# make test        what CI runs: set-up, all tests but those that docs/testing.md leaves to test-all; 20 minutes, as root
# make test-all    everything: all machines in QEMU, the race detector on everything, long fuzzing, soak; hours
# make build       the binaries, in build/
# make test-vm     machines that boot over http in QEMU; RUN=REGEX chooses some
# make fuzz        every fuzzer for FUZZTIME (60s)
# make soak        random reads through mounts whose servers fail all the time, for SOAK (10m); as root
# make install     into DESTDIR: the programs, and the scripts for initramfs-tools, dracut and mkinitcpio
# make deb         the same as a Debian package, in build/
# make bench       bootprof side by side with everything a user could pick instead, less than an hour; bench/results
# make bench-quick the same in eight minutes, with fewer of them
# make bench-keep  the last results of make bench into docs/benchmarks, to be committed
# make bench-pack  bootprof pack against mksquashfs and mkfs.erofs on two real trees

BUILD ?= build
SOAK ?= 10m
# Go is where its installer puts it, if it is not on the PATH (sudo drops it).
export PATH := $(PATH):/usr/local/go/bin:/usr/sbin:/sbin
export BUILD

GO_BUILD = CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)"
# In the boot binary, code is not copied into its callers (inlined) but where chunks are decoded: 0.36 MB under xz -9.
SMALL = -gcflags=all=-l -gcflags=github.com/klauspost/...= -gcflags=bootprof/imagepack/...=
VERSION ?= $(shell git describe --tags --always 2>/dev/null || echo dev)

.PHONY: all build cross demo demo-large demo-vm check test test-all test-vm fuzz soak bench bench-quick bench-keep bench-pack setup install deb clean

all: build

build:
	$(GO_BUILD) -o $(BUILD)/bootprof ./cmd/bootprof
	$(GO_BUILD) $(SMALL) -o $(BUILD)/bootprof-mount ./cmd/bootprof-mount

# The release binaries: static, for both machine types.
cross:
	for arch in amd64 arm64; do \
		GOARCH=$$arch $(GO_BUILD) -o $(BUILD)/bootprof-$$arch ./cmd/bootprof && \
		GOARCH=$$arch $(GO_BUILD) $(SMALL) -o $(BUILD)/bootprof-mount-$$arch ./cmd/bootprof-mount || exit 1; \
	done

setup:
	scripts/setup.sh

demo:
	scripts/demo.sh debian

demo-large:
	scripts/demo.sh large

demo-vm:
	scripts/demo-vm.sh

check:
	scripts/test.sh check

test:
	scripts/test.sh

test-all:
	scripts/test.sh all

test-vm:
	scripts/test-vm.sh $(if $(RUN),"$(RUN)")

fuzz:
	scripts/fuzz.sh

soak:
	SOAK=$(SOAK) go test -count=1 -v -timeout 0 -run '^TestSoak$$' ./mountclient

bench:
	scripts/bench.sh

bench-quick:
	scripts/bench.sh quick

bench-keep:
	scripts/bench-keep.sh

bench-pack:
	scripts/bench-pack.sh

# What a distribution's package has. The scripts are read by initramfs-tools, dracut and mkinitcpio only.
install: build
	install -D -m 755 $(BUILD)/bootprof $(BUILD)/bootprof-mount -t $(DESTDIR)/usr/bin
	install -D -m 644 initramfs/boot.sh -t $(DESTDIR)/usr/lib/bootprof
	install -D -m 644 initramfs/initramfs-tools/conf.d/bootprof $(DESTDIR)/usr/lib/bootprof/initramfs-tools.conf
	install -D -m 755 initramfs/initramfs-tools/hooks/bootprof -t $(DESTDIR)/usr/share/initramfs-tools/hooks
	install -D -m 644 initramfs/initramfs-tools/conf-hooks.d/bootprof -t $(DESTDIR)/usr/share/initramfs-tools/conf-hooks.d
	install -D -m 644 initramfs/initramfs-tools/scripts/bootprof -t $(DESTDIR)/usr/share/initramfs-tools/scripts
	install -D -m 755 initramfs/initramfs-tools/scripts/init-premount/bootprof -t $(DESTDIR)/usr/share/initramfs-tools/scripts/init-premount
	install -D -m 755 initramfs/dracut/50bootprof/*.sh -t $(DESTDIR)/usr/lib/dracut/modules.d/50bootprof
	install -D -m 644 initramfs/mkinitcpio/install/bootprof -t $(DESTDIR)/usr/lib/initcpio/install
	install -D -m 644 initramfs/mkinitcpio/hooks/bootprof -t $(DESTDIR)/usr/lib/initcpio/hooks
	install -D -m 644 README.md docs/*.md -t $(DESTDIR)/usr/share/doc/bootprof
	install -D -m 644 LICENSE $(DESTDIR)/usr/share/doc/bootprof/copyright

deb: build
	scripts/make-deb.sh $(BUILD)

clean:
	rm -rf $(BUILD)
