package mountclient

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"bootprof/imagepack/bpk"
	"bootprof/internal/fsmagic"
)

// Open starts the preload and returns when header and boot index are there and checked. ctx bounds the
// opening only. The caller closes the client.
//
// Of mirrors that have different files, those that differ from the first answer are dropped. If that answer was of
// another file than the digest or the key asks for, each mirror is tried alone.
func Open(ctx context.Context, opts Options) (*Client, error) {
	c, err := openAll(ctx, opts)
	urls := SplitURLs(opts.URL)
	if len(urls) == 1 || ctx.Err() != nil || !isOther(err) {
		return c, err
	}
	for _, url := range urls {
		one := opts
		one.URL = url
		if c, err2 := openAll(ctx, one); err2 == nil {
			opts.Log.Warn("only one mirror is used: another has a different file", "mirror", c.shown, "error", err)
			return c, nil
		}
	}
	return nil, err
}

// isOther tells whether a server has another file than the one that was asked for.
func isOther(err error) bool {
	var digest *DigestError
	var sign *SignatureError
	var notPack *NotPackError
	var unverified *UnverifiedError
	return isCorrupt(err) || errors.As(err, &digest) || errors.As(err, &sign) || errors.As(err, &notPack) || errors.As(err, &unverified)
}

func openAll(ctx context.Context, opts Options) (*Client, error) {
	reach := func() (*fetcher, error) {
		access, err := newAccess(opts.Access, opts.Log)
		if err != nil {
			return nil, err
		}
		if opts.Root {
			access.names = newResolver("/etc", "/run", opts.Log)
			go access.roots() // a redirect may lead to https, and settle waits for them
		}
		return newFetcher(opts.URL, &network{access: access, log: opts.Log, startTimeout: opts.StartTimeout, timeout: opts.Timeout, survive: opts.Root, wholeDir: opts.CacheDir})
	}
	fetch, err := reach()
	if err != nil {
		return nil, err
	}
	key, err := readPublicKey(opts.PublicKey)
	if err != nil {
		return nil, err
	}
	if opts.MemoryBytes == 0 {
		opts.MemoryBytes = 32 << 20
	}
	kept := findKept(opts, fetch.shown(), key)
	if kept != nil && opts.Digest != "" {
		if c, err := openKept(ctx, opts, kept, fetch); err == nil {
			return c, nil
		} else if !errors.Is(err, errCold) {
			opts.Log.Debug("the kept pack is not used", "error", err)
		}
		kept = nil
		if fetch, err = reach(); err != nil {
			return nil, err
		}
	}
	if kept != nil && opts.StartTimeout == 0 {
		fetch.startTimeout = keptWait
	}
	c, err := openRemote(ctx, opts, key, fetch, kept)
	if kept == nil || !unreachable(err) || ctx.Err() != nil {
		return c, err
	}
	fetch, err2 := reach()
	if err2 != nil {
		return nil, err2
	}
	c, err2 = openKept(ctx, opts, kept, fetch)
	if err2 == nil {
		opts.Log.Warn("no server answers, the pack last used from there is taken from the cache", "digest", fmt.Sprintf("sha256:%x", c.digest), "error", err)
		return c, nil
	}
	if opts.StartTimeout == 0 { // then the server is waited for
		return openRemote(ctx, opts, key, fetch, nil)
	}
	return nil, err
}

// openRemote starts with what the server has. If old is what was last there, the first request tells whether it still is; then
// there may be no other. nil: not known.
func openRemote(ctx context.Context, opts Options, key *signedBy, fetch *fetcher, old *kept) (*Client, error) {
	life, stop := context.WithCancel(context.Background())
	c := &Client{opts: opts, shown: fetch.shown(), fetch: fetch, stop: stop, started: time.Now(), broken: make(chan struct{})}
	opening := openingSegments
	switch {
	case isManifest(fetch.src):
		opening = manifestOpening
	case old.isWhole():
		c.isNarrow = true
		opening = openingSegments[:1]
	}
	var err error
	if c.pre, err = startPreload(life, c.fetch, inRow(opening), &c.running); err != nil {
		stop()
		return nil, err
	}
	if err := c.open(ctx, life, key, old); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// widen sends the requests of the opening that a narrow one left out. Nothing else may have been asked for.
func (c *Client) widen() {
	if c.isNarrow {
		c.isNarrow = false
		c.pre.ask(inRow(openingSegments)[1:])
	}
}

// open reads header and boot index out of the preload and makes the parts that need them.
func (c *Client) open(ctx, life context.Context, key *signedBy, old *kept) error {
	var signature *signature
	if !c.isNarrow {
		signature = key.fetch(life, c.fetch, &c.running)
	}
	err := c.readHeader(ctx)
	if c.isNarrow {
		if err == nil && c.digest == bpk.Digest(old.header) && c.fetch.src.pin.size() == c.head.PackSize {
			if err := c.openFrom(ctx, life, old); !isCorrupt(err) || c.store != nil { // else its index is damaged
				return err
			}
		}
		c.widen()
		signature = key.fetch(life, c.fetch, &c.running)
	}
	var image remote
	var notPack *NotPackError
	if errors.As(err, &notPack) && notPack.start != nil && !isManifest(c.fetch.src) {
		signature.drop()
		image = remote{c.fetch, c.pre}
		manifest := c.fetch.sibling(func(image string) string { return image + bpk.ManifestSuffix })
		signature = key.fetch(life, manifest, &c.running)
		if err = c.readManifest(ctx, life, manifest); isMissing(err) {
			return c.openPlain(ctx, life, image, notPack, err)
		}
		err = besideError(notPack, err)
	}
	if err != nil {
		return err
	}
	if err := checkDigest(c.opts.Digest, c.digest); err != nil {
		return fmt.Errorf("%s: %w", c.fetch.src.shown, err)
	}
	if err := key.check(ctx, signature, c.digest); err != nil {
		return err
	}
	if signature != nil {
		c.kept.signature = signature.file
	}
	if size := c.fetch.src.pin.size(); size != c.head.PackSize {
		return &bpk.CorruptError{What: c.fetch.src.shown, Why: fmt.Sprintf("%d bytes on the server instead of %d: uploaded in part?", size, c.head.PackSize)}
	}
	if c.at, err = locate(c.head, remote{c.fetch, c.pre}, image); err != nil {
		return err
	}
	c.pre.need(span{0, c.head.BootIndex.PackOff + c.head.BootIndex.Len})
	if err := c.preloaded(ctx, c.head.BootIndex, func(raw []byte) (err error) {
		if err := bpk.CheckBlock("boot index", c.head.BootIndex, raw); err != nil {
			return err
		}
		c.index, err = bpk.DecodeBootIndex(c.head, raw)
		c.kept.index = raw
		return err
	}); err != nil {
		return err
	}
	return c.build(ctx, life)
}

// readManifest takes what was asked for as an image, and the manifest beside it for the pack.
func (c *Client) readManifest(ctx, life context.Context, manifest *fetcher) error {
	pre, err := startPreload(life, manifest, inRow(besideOpening), &c.running)
	if err != nil {
		return err
	}
	c.at = &places{image: remote{c.fetch, c.pre}} // what Close has to close
	c.fetch, c.pre = manifest, pre
	return c.readHeader(ctx)
}

// readHeader reads the pack's header out of the preload.
func (c *Client) readHeader(ctx context.Context) error {
	url := c.fetch.src.shown
	if err := c.pre.wait(ctx, 0, bpk.HeaderSize); err != nil {
		if errors.Is(err, errEndsEarly) {
			return &NotPackError{URL: url, Why: fmt.Sprintf("it is %d bytes long", c.fetch.src.pin.size())}
		}
		return err
	}
	return c.preloaded(ctx, bpk.Block{Len: bpk.HeaderSize}, func(raw []byte) (err error) {
		c.digest, c.kept.header = bpk.Digest(raw), raw
		if c.head, err = bpk.DecodeHeader(raw); errors.Is(err, bpk.ErrNotPack) {
			err = &NotPackError{URL: url, Why: fmt.Sprintf("it starts with %q", raw[:8]), start: c.pre.start()}
		}
		return err
	})
}

// preloaded hands the preloaded bytes of a block to decode. If they are damaged they are fetched once more.
func (c *Client) preloaded(ctx context.Context, b bpk.Block, decode func([]byte) error) error {
	if err := c.pre.wait(ctx, b.PackOff, b.Len); err != nil {
		return err
	}
	raw, err := c.pre.read(b.PackOff, b.Len)
	if err != nil {
		return err
	}
	if err = decode(raw); isCorrupt(err) {
		c.fetch.src.count.corrupt.Add(1)
		src := c.pre.source(b.PackOff)
		if src != nil && len(c.fetch.mirrors) > 0 {
			c.pre.distrust(src, b.PackOff+b.Len)
			if c.fromEither(ctx, src, b, decode) == nil {
				return nil
			}
		}
		for range max(1, len(c.fetch.mirrors)) { // the same one first: a cache in between may be to blame
			raw, ferr := c.fetch.bytesFrom(fresh(ctx), src, b.PackOff, b.Len)
			if ferr != nil {
				return ferr
			}
			if err = decode(raw); err == nil {
				return nil
			}
			c.fetch.suspect(src)
			src = c.fetch.after(src)
		}
	}
	var notPack *NotPackError
	if err != nil && !errors.As(err, &notPack) {
		err = fmt.Errorf("%s: %w", c.fetch.src.shown, err)
	}
	return err
}

// fromEither decodes a damaged block from the mirror that gave it or from another one.
func (c *Client) fromEither(ctx context.Context, src *httpSource, b bpk.Block, decode func([]byte) error) error {
	var one sync.Mutex
	decoded := false
	_, damaged, err := c.fetch.either(ctx, src, b.PackOff, b.Len, func(raw []byte) error {
		one.Lock()
		defer one.Unlock()
		if decoded {
			return nil
		}
		err := decode(raw)
		decoded = err == nil
		return err
	})
	return cmp.Or(err, damaged)
}

// locate finds out where the blocks of a pack lie. image is what was asked for; without a fetcher if that was the pack.
func locate(head *bpk.Header, pack, image remote) (*places, error) {
	at := &places{head: head, pack: pack, image: image}
	packURL := pack.fetch.src.shown
	switch beside := head.Features&bpk.FeatureBeside != 0; {
	case image.fetch != nil && !beside:
		return at, &NotPackError{URL: image.fetch.src.shown, Why: packURL + " beside it is a pack, not a manifest"}
	case image.fetch != nil:
		if size := image.fetch.src.pin.size(); size != head.ImageSize {
			return at, wrongSize(image.fetch.src.shown, size, head.ImageSize)
		}
	case beside && !isManifest(pack.fetch.src):
		return at, &NotPackError{URL: packURL, Why: "it is the manifest of an image, and must be called like the image with " + bpk.ManifestSuffix + " behind it"}
	case beside:
		at.image.fetch = pack.fetch.sibling(func(manifest string) string { return strings.TrimSuffix(manifest, bpk.ManifestSuffix) })
		at.image.fetch.src.pin.image = head.ImageSize
	}
	return at, nil
}

// isManifest tells whether a URL is that of a manifest, by its name.
func isManifest(src *httpSource) bool {
	_, ok := bpk.ImageName(src.path())
	return ok
}

// A NotPackError tells that the URL holds something else than a pack.
type NotPackError struct {
	URL, Why string
	start    []byte // first bytes of a file that is long enough to be an image
}

func (e *NotPackError) Error() string {
	return fmt.Sprintf("%s is not a bootprof pack: %s", e.URL, e.Why)
}

// besideError tells why a file that is no pack has no manifest beside it either. err is what reading that gave.
func besideError(image *NotPackError, err error) error {
	var http *HTTPError
	var notPack *NotPackError
	what := image.Why
	if fs := fsmagic.Detect(bytes.NewReader(image.start)); fs != "" {
		what = fmt.Sprintf("it starts like an image (%s)", fs)
	}
	switch {
	case errors.As(err, &http) && http.Permanent():
		return &NotPackError{URL: image.URL, Why: fmt.Sprintf("%s, and there is no manifest beside it (%v)", what, err)}
	case errors.As(err, &notPack):
		return &NotPackError{URL: image.URL, Why: fmt.Sprintf("%s, and %s beside it is no manifest", what, notPack.URL)}
	}
	return err
}

// start returns what is there of the beginning of the file, as far as a file system can be told by it.
func (p *preload) start() []byte {
	p.mu.Lock()
	n := min(p.have(0), fsmagic.Window)
	p.mu.Unlock()
	b, _ := io.ReadAll(io.NewSectionReader(p.file(n), 0, n))
	return b
}
