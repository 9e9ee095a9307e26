package mountclient

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/bpk"
	"bootprof/internal/minisig"
)

// A kept is what a cache keeps of a pack besides pages, in HEX.head: with it, a boot whose pages are all in the cache
// needs no server. The file is the header and then, each behind its length (4 bytes, little-endian), the boot index,
// the signature that the client checked, if any, and the URLs that the pack came from.
//
// Header, boot index and signature are checked as if they came from the network. The URLs only tell whether this is
// the pack to use when no server answers.
type kept struct {
	header, index, signature []byte
	url                      string
}

const (
	keptSuffix = ".head"
	maxKept    = bpk.MaxIndexLen + 1<<20 // bytes of a file
	keptWait   = 10 * time.Second        // for a server, without Options.StartTimeout, before a kept pack is used
)

// errCold tells that a cache lacks boot pages.
var errCold = errors.New("boot pages are missing in the cache")

func keptName(dir string, digest [32]byte) string {
	return filepath.Join(dir, fmt.Sprintf("%x%s", digest, keptSuffix))
}

// save writes the file, unless the same bytes are there, and makes it the youngest of its directory.
func (k *kept) save(dir *os.File) error {
	b := append([]byte(nil), k.header...)
	for _, part := range [][]byte{k.index, k.signature, []byte(k.url)} {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	name := keptName("", bpk.Digest(k.header))
	if was, err := readIn(dir, name, maxKept); err == nil && string(was) == string(b) {
		now := unix.NsecToTimespec(time.Now().UnixNano())
		return unix.UtimesNanoAt(int(dir.Fd()), name, []unix.Timespec{now, now}, 0)
	}
	return writeIn(dir, name, b)
}

// readKept reads a file that save wrote. It tells whether its lengths hold and its name is the digest of the header.
func readKept(name string) (*kept, bool) {
	f, err := os.Open(name)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKept))
	if err != nil {
		return nil, false
	}
	k, ok := decodeKept(b)
	return k, ok && keptName(filepath.Dir(name), bpk.Digest(k.header)) == name
}

func decodeKept(b []byte) (*kept, bool) {
	if len(b) < bpk.HeaderSize {
		return nil, false
	}
	k := &kept{header: b[:bpk.HeaderSize]}
	b = b[bpk.HeaderSize:]
	var url []byte
	for _, part := range []*[]byte{&k.index, &k.signature, &url} {
		if len(b) < 4 || uint64(binary.LittleEndian.Uint32(b)) > uint64(len(b)-4) {
			return nil, false
		}
		n := binary.LittleEndian.Uint32(b)
		*part, b = b[4:4+n], b[4+n:]
	}
	k.url = string(url)
	return k, true
}

// findKept returns the kept pack with the digest that opts ask for; without one, the pack that was last used from the
// same URLs. nil if there is none, or it has not got the signature that opts ask for.
func findKept(opts Options, url string, key *signedBy) *kept {
	if opts.CacheDir == "" {
		return nil
	}
	pattern := "*"
	if opts.Digest != "" {
		pattern = strings.ToLower(strings.TrimPrefix(opts.Digest, "sha256:"))
	}
	names, _ := filepath.Glob(filepath.Join(opts.CacheDir, pattern+keptSuffix))
	var best *kept
	var youngest time.Time
	for _, name := range names {
		st, err := os.Stat(name)
		k, ok := readKept(name)
		if err != nil || !ok || checkDigest(opts.Digest, bpk.Digest(k.header)) != nil || opts.Digest == "" && k.url != url {
			continue
		}
		if key != nil && key.verify(k.signature, bpk.Digest(k.header)) != nil {
			continue
		}
		if best == nil || st.ModTime().After(youngest) {
			best, youngest = k, st.ModTime()
		}
	}
	return best
}

// isWhole tells whether what was asked for was a pack, not an image with a manifest beside it. k may be nil.
func (k *kept) isWhole() bool {
	if k == nil {
		return false
	}
	head, err := bpk.DecodeHeader(k.header)
	return err == nil && head.Features&bpk.FeatureBeside == 0
}

// verify checks a signature file of the pack with the digest.
func (k *signedBy) verify(file []byte, digest [32]byte) error {
	if len(file) > minisig.MaxFile {
		return fmt.Errorf("a signature of %d bytes", len(file))
	}
	s := &signature{came: make(chan struct{}), file: file}
	close(s.came)
	return k.check(context.Background(), s, digest)
}

// openKept makes a client of a kept pack. No request is sent until a page is read that the cache has not got. It
// returns errCold if boot pages are missing: they come sooner by the ordinary start.
func openKept(ctx context.Context, opts Options, k *kept, fetch *fetcher) (*Client, error) {
	life, stop := context.WithCancel(context.Background())
	shown := fetch.shown()
	if !k.isWhole() && !isManifest(fetch.src) { // what is kept is the manifest of what was asked for
		fetch = fetch.sibling(func(image string) string { return image + bpk.ManifestSuffix })
	}
	c := &Client{opts: opts, shown: shown, fetch: fetch, stop: stop, started: time.Now(), broken: make(chan struct{}), fromKept: true}
	var err error
	if c.pre, err = startPreload(life, c.fetch, nil, &c.running); err != nil {
		stop()
		return nil, err
	}
	if err := c.openFrom(ctx, life, k); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// openFrom makes the parts of the client from a kept pack.
func (c *Client) openFrom(ctx, life context.Context, k *kept) (err error) {
	c.kept = *k
	c.digest = bpk.Digest(k.header)
	if c.head, err = bpk.DecodeHeader(k.header); err != nil {
		return err
	}
	if c.at, err = locate(c.head, remote{c.fetch, c.pre}, remote{}); err != nil {
		return err
	}
	if err := bpk.CheckBlock("boot index", c.head.BootIndex, k.index); err != nil {
		return err
	}
	if c.index, err = bpk.DecodeBootIndex(c.head, k.index); err != nil {
		return err
	}
	return c.build(ctx, life)
}

// unreachable tells that no server answered, which says nothing of the pack.
func unreachable(err error) bool {
	var network *NetworkError
	var answer *HTTPError
	return errors.As(err, &network) || errors.As(err, &answer) && !answer.Permanent()
}
