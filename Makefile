# make demo        everything: set-up, a Debian 12 root, recorded boots, packs, and the table of boots
# make demo-large  the same with an image of more than 1 GB that starts real services
# make test        set-up and all tests
# make build       the binaries, in build/
# make fuzz        every fuzzer for FUZZTIME (60s)
# make soak        random reads through mounts whose servers fail all the time, for SOAK (10m); as root
# make bench       bootprof side by side with everything a user could pick instead, less than an hour; bench/results
# make bench-quick the same in eight minutes, with fewer of them
# make bench-pack  bootprof pack against mksquashfs and mkfs.erofs on two real trees

BUILD ?= build
FUZZTIME ?= 60s
SOAK ?= 10m
# Go is where its installer puts it, if it is not on the PATH (sudo drops it).
export PATH := $(PATH):/usr/local/go/bin:/usr/sbin:/sbin
export BUILD FUZZTIME

# The boot binary has to be small: packages whose speed no boot feels are compiled without inlining, which takes 100 KB (4 %)
# off what it adds to an initrd.
SMALL = $(foreach p,net/http net/http/internal/... net/textproto net/url mime crypto/tls crypto/x509 encoding/json encoding/asn1 log/slog flag \
	vendor/golang.org/x/net/idna vendor/golang.org/x/text/unicode/norm vendor/golang.org/x/text/unicode/bidi,-gcflags=$(p)=-l)
GO_BUILD = CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)"
# In the boot binary, code is not copied into its callers (inlined) where speed does not matter: 0.2 MB under xz -9.
SMALL = $(foreach p,net/... crypto/... vendor/... encoding/... math/big fmt reflect time os/... mime/... log/...,-gcflags=$(p)=-l)
VERSION ?= $(shell git describe --tags --always 2>/dev/null || echo dev)

.PHONY: all build cross demo demo-large test fuzz soak bench bench-quick bench-pack setup clean

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

test:
	scripts/test.sh

fuzz:
	scripts/fuzz.sh

soak:
	SOAK=$(SOAK) go test -count=1 -v -timeout 0 -run '^TestSoak$$' ./mountclient

bench:
	scripts/bench.sh

bench-quick:
	scripts/bench.sh quick

bench-pack:
	scripts/bench-pack.sh

clean:
	rm -rf $(BUILD)
