package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"

	"bootprof/imagepack"
	"bootprof/imagepack/sign"
	"bootprof/profiles"
)

// packInfo is the JSON kept in a pack. It says nothing that depends on when or where it was made.
type packInfo struct {
	Tool        string `json:"tool"`
	Runs        int    `json:"runs"`
	BootPages   int64  `json:"boot_pages"`
	BodyLevel   string `json:"body_level,omitempty"` // "" where nothing is compressed
	SourceBytes int64  `json:"image_bytes"`
}

var bodyLevels = map[string]zstd.EncoderLevel{
	"fastest": zstd.SpeedFastest, "default": zstd.SpeedDefault, "better": zstd.SpeedBetterCompression, "best": zstd.SpeedBestCompression,
	"max": imagepack.BodyMax,
}

var bootLevels = map[string]imagepack.BootLevel{
	"auto": imagepack.BootAuto, "fast": imagepack.BootFast, "good": imagepack.BootGood, "best": imagepack.BootBest,
}

var packFormats = map[string]func(*packJob, context.Context) error{
	"bpk": (*packJob).bpk, "split": (*packJob).split, "sparse": (*packJob).sparse, "squashfs": (*packJob).squashfs,
}

// packFlags are the flags of pack.
type packFlags struct {
	out, format, fs, inside       string
	runs                          []string
	level, bootLevel              string
	compressor                    string
	blockSize                     int
	signKey, signPassword, baseOf string
	jobs                          int
}

func (a *app) packCmd() *cobra.Command {
	var p packFlags
	cmd := &cobra.Command{
		Use:   "pack INPUT -o OUT",
		Short: "Build a pack from a directory, a tar or an image",
		Long: `Build the pack OUT from INPUT. A directory, a tar (also gzip, zstd, xz, bzip2), a squashfs or a compressed EROFS
becomes an uncompressed EROFS inside the pack; of an ISO or a disk image the file system with the root is taken; any other
image is packed as it is. Neither root nor a loop device is needed (but owners and all attributes of a directory can
be read by root only).

The working flow: pack without --profile, record boots of that pack (bootprof record --image OUT.bpk), then
pack again with a --profile for each recorded run. The same input and profiles give the same bytes.

With --format, other forms of the same plan:
  squashfs  an ordinary squashfs in boot order, with a manifest OUT.bpm beside it that mount finds and uses
  split     an index OUT, and beside it a folder "chunks" with a file for each chunk, shared between builds
  sparse    the image with its boot pages only, in the directory OUT, which mount --cache takes over as a warm cache`,
		Args: args(1, 1, "INPUT, and -o OUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := p.check(cmd.Flags().Changed); err != nil {
				return usage(cmd, err)
			}
			return a.pack(cmd.Context(), args[0], p)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&p.out, "output", "o", "", "`OUT`, what to write; its directory must exist")
	f.StringVar(&p.format, "format", "bpk", "`FORM` of the output: bpk, squashfs, split or sparse")
	f.StringVar(&p.fs, "fs", "", "`KIND` of file system inside: erofs, squashfs, or keep (the input as it is)")
	f.StringVar(&p.inside, "inside", "", "`NAME` of the image inside an ISO, or name or number of the partition of a disk, to take")
	f.StringArrayVar(&p.runs, "profile", nil, "a recorded boot, `RUN.bprof`; several may be given, and are merged")
	f.StringVar(&p.level, "level", "best", "zstd `EFFORT` for what a boot does not touch: fastest, default, better, best, max")
	f.StringVar(&p.bootLevel, "boot-level", "auto", "`EFFORT` for what a boot touches: auto, fast, good, best")
	f.StringVar(&p.compressor, "compressor", "", "`NAME` of the compressor of --format squashfs, unless INPUT is one: zstd (also without the flag), gzip, xz, lz4, none")
	f.IntVar(&p.blockSize, "block-size", 0, "`BYTES` of a block of --format squashfs, unless INPUT is one: 4096 to 1048576; without it 131072")
	f.StringVar(&p.signKey, "sign", "", "make a signature OUT.minisig with this minisign secret `KEY` file")
	f.StringVar(&p.signPassword, "sign-password-file", "", "`FILE` with the password of the key; without it, $BOOTPROF_SIGN_PASSWORD")
	f.StringVar(&p.baseOf, "base", "", "tell what a client that holds the pack `OLD.bpk` downloads")
	f.IntVar(&p.jobs, "jobs", 0, "compress with `N` threads; 0: one per processor, as far as 512 MB of memory reach")
	return cmd
}

// check refuses values and combinations of flags that mean nothing. given tells whether a flag is there.
func (p *packFlags) check(given func(flag string) bool) error {
	switch {
	case !has(bodyLevels, p.level):
		return fmt.Errorf("--level %s: want fastest, default, better, best or max", p.level)
	case !has(bootLevels, p.bootLevel):
		return fmt.Errorf("--boot-level %s: want auto, fast, good or best", p.bootLevel)
	case !has(packFormats, p.format):
		return fmt.Errorf("--format %s: want bpk, squashfs, split or sparse", p.format)
	case !slices.Contains([]string{"", imagepack.FSErofs, imagepack.FSSquashfs, imagepack.FSKeep}, p.fs):
		return fmt.Errorf("--fs %s: want %s, %s or %s", p.fs, imagepack.FSErofs, imagepack.FSSquashfs, imagepack.FSKeep)
	case p.out == "":
		return errors.New("where to write the pack: -o OUT.bpk is missing")
	case p.jobs < 0:
		return fmt.Errorf("--jobs %d: want 0 or more", p.jobs)
	case p.format != "squashfs" && (p.compressor != "" || p.blockSize != 0):
		return errors.New("--compressor and --block-size are for --format squashfs")
	case p.format == "squashfs" && (given("level") || given("boot-level")):
		return errors.New("--level and --boot-level are for packs: --format squashfs has one effort, that of best")
	case p.format == "squashfs" && p.fs != "":
		return errors.New("--fs is for packs: --format squashfs makes a squashfs")
	case p.format != "bpk" && p.format != "split" && p.baseOf != "":
		return errors.New("--base is for --format bpk and split")
	case p.signPassword != "" && p.signKey == "":
		return errors.New("--sign-password-file is for --sign KEY, which is missing")
	case p.format == "sparse" && p.signKey != "":
		return errors.New("--sign is for what a server gives away, not for --format sparse")
	}
	return nil
}

func has[T any](m map[string]T, key string) bool {
	_, ok := m[key]
	return ok
}

// packJob is one run of pack.
type packJob struct {
	*app
	packFlags
	input string
	began time.Time
	key   *sign.Key // nil: no signature is wanted
	base  *openedPack
	runs  []*profiles.Run
	in    *imagepack.Input
	bar   *progress

	mountable bool // the image is a file system that is known
}

func (a *app) pack(ctx context.Context, input string, flags packFlags) error {
	debug.SetMemoryLimit(imagepack.MemoryLimit(flags.jobs))
	p := &packJob{app: a, packFlags: flags, input: input, began: time.Now()}
	p.bar = newProgress(a.stderr, "reading "+filepath.Base(input))
	defer p.bar.close()
	ended := make(chan error, 1)
	go func() { ended <- p.run(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	// Most steps end at once. A boot frame is compressed for up to a minute: nobody waits for it, since what was written
	// so far has no name and vanishes with the process.
	select {
	case err := <-ended:
		return err
	case <-time.After(interruptGrace):
		return ctx.Err()
	}
}

// interruptGrace is how long an interrupted pack may take to end in an orderly way.
const interruptGrace = time.Second

// run packs.
func (p *packJob) run(ctx context.Context) (err error) {
	flags := p.packFlags
	// All that can be refused is looked at before anything is written.
	if err := p.checkOutput(); err != nil {
		return err
	}
	if p.runs, err = readRuns(flags.runs); err != nil {
		return err
	}
	if flags.signKey != "" {
		if p.key, err = sign.ReadKey(flags.signKey, p.password); err != nil {
			return &imagepack.InputError{Path: "--sign", Err: err}
		}
	}
	if flags.baseOf != "" {
		if p.base, err = openPack(flags.baseOf, flags.baseOf); err != nil {
			return err
		}
		defer p.base.Close()
	}
	if p.in, err = imagepack.OpenInputProgress(ctx, p.input, flags.inside, p.bar.set); err != nil {
		return err
	}
	defer p.in.Close()
	if inner := p.in.Inner(); inner != "" && p.fs != imagepack.FSKeep {
		p.tell("%s: taking %s", p.input, inner)
	}
	return packFormats[flags.format](p, ctx)
}

// password returns the password of the secret key.
func (p *packJob) password() (string, error) {
	if p.signPassword == "" {
		if pw, ok := os.LookupEnv("BOOTPROF_SIGN_PASSWORD"); ok {
			return pw, nil
		}
		return "", errors.New("the key has a password: give --sign-password-file FILE or $BOOTPROF_SIGN_PASSWORD")
	}
	f, err := os.Open(p.signPassword)
	if err != nil {
		return "", fmt.Errorf("the key's password: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return "", fmt.Errorf("the key's password: %w", err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// image opens the image of the pack and finds its boot order.
func (p *packJob) image(ctx context.Context) (imagepack.Image, imagepack.WriteOptions, error) {
	opts := imagepack.WriteOptions{BodyLevel: bodyLevels[p.level], BootLevel: bootLevels[p.bootLevel], Workers: p.jobs, Progress: p.bar.set}
	img, err := p.in.Image(ctx, p.fs)
	if err != nil {
		return nil, opts, err
	}
	if p.mountable = img.Filesystem() != ""; !p.mountable {
		p.say("no file system that is known begins in %s: it is packed as it is, and mount --raw will give it back as a file", p.input)
	}
	p.tellLost(imagepack.LossesOf(img))
	switch {
	case len(p.runs) > 0:
		opts.Boot, opts.ImageSHA256, err = p.order(ctx, img)
	case p.fs == "" || p.fs == imagepack.FSKeep:
		opts.Boot = p.in.BootOrder() // a pack that is packed again keeps its own
	}
	opts.Info = p.info(p.level, img.Size())
	if err != nil {
		img.Close()
		return nil, opts, err
	}
	return img, opts, nil
}

// order returns the boot order of an image and its SHA-256.
func (p *packJob) order(ctx context.Context, img imagepack.Image) ([]profiles.Range, [32]byte, error) {
	p.bar.step("hashing the image for the profile")
	sum, err := hashImage(ctx, img, p.bar.set)
	if err != nil {
		return nil, sum, err
	}
	order, err := bootOrder(img, sum, p.packFlags.runs, p.runs, p.say)
	return order, sum, err
}

func (p *packJob) say(f string, v ...any) { p.bar.line("bootprof: "+f, v...) }

func (p *packJob) info(level string, imageSize int64) func(int64) []byte {
	return func(bootPages int64) []byte {
		b, _ := json.Marshal(packInfo{"bootprof " + version, len(p.runs), bootPages, level, imageSize})
		return b
	}
}

// hashImage returns the SHA-256 of an image, which the profiles are compared with.
func hashImage(ctx context.Context, img imagepack.Image, progress func(done, total int64)) ([32]byte, error) {
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < img.Size(); {
		if err := ctx.Err(); err != nil {
			return [32]byte{}, err
		}
		n := min(int64(len(buf)), img.Size()-off)
		if m, err := img.ReadAt(buf[:n], off); int64(m) < n && err != io.EOF {
			return [32]byte{}, err
		}
		h.Write(buf[:n])
		off += n
		progress(off, img.Size())
	}
	return [32]byte(h.Sum(nil)), nil
}
