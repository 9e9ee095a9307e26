package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"

	"bootprof/imagepack"
)

// packInfo is the JSON kept in a pack. It says nothing that depends on when or where it was made.
type packInfo struct {
	Tool        string `json:"tool"`
	Runs        int    `json:"runs"`
	BootPages   int64  `json:"boot_pages"`
	BodyLevel   string `json:"body_level"`
	SourceBytes int64  `json:"image_bytes"`
}

// packMemory is where the garbage collector begins to work for memory instead of speed, in bytes. The boot zone's
// compressor takes 105 MiB for each frame that it works on.
const packMemory = 400 << 20

var bodyLevels = map[string]zstd.EncoderLevel{
	"fastest": zstd.SpeedFastest, "default": zstd.SpeedDefault, "better": zstd.SpeedBetterCompression, "best": zstd.SpeedBestCompression,
}

func (a *app) packCmd() *cobra.Command {
	var out, fs string
	var runs []string
	level := "best"
	cmd := &cobra.Command{
		Use:   "pack INPUT -o OUT.bpk",
		Short: "Build a pack from a directory, a tar, a squashfs or a raw image",
		Long: `Build the pack OUT.bpk from INPUT. A directory, a tar (also gzip, zstd, xz, bzip2) or a squashfs becomes an
uncompressed EROFS inside the pack; any other image file is packed as it is, and --fs keep does that with a
squashfs, too. Neither root nor a loop device is needed (but owners and all attributes of a directory can
be read by root only).

The working flow: pack without --profile, record boots of that pack (bootprof record --image OUT.bpk), then
pack again with a --profile for each recorded run. The same input and profiles give the same bytes.`,
		Args: args(1, 1, "INPUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			bodyLevel, ok := bodyLevels[level]
			if !ok {
				return usage(cmd, fmt.Errorf("--level %s: want fastest, default, better or best", level))
			}
			if fs != "" && fs != imagepack.FSErofs && fs != imagepack.FSKeep {
				return usage(cmd, fmt.Errorf("--fs %s: want %s or %s", fs, imagepack.FSErofs, imagepack.FSKeep))
			}
			if out == "" {
				return usage(cmd, fmt.Errorf("where to write the pack: -o OUT.bpk is missing"))
			}
			return a.pack(cmd.Context(), args[0], out, fs, runs, bodyLevel, level)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&out, "output", "o", "", "the pack to write, `OUT.bpk`")
	f.StringVar(&fs, "fs", "", "file system of the image inside: `erofs`, or keep (the input as it is)")
	f.StringArrayVar(&runs, "profile", nil, "a recorded boot, `RUN.bprof`; several may be given, and are merged")
	f.StringVar(&level, "level", level, "zstd effort for what a boot does not touch: fastest, default, better, best")
	return cmd
}

func (a *app) pack(ctx context.Context, input, out, fs string, profilePaths []string, level zstd.EncoderLevel, levelName string) error {
	began := time.Now()
	debug.SetMemoryLimit(packMemory)
	runs, err := readRuns(profilePaths)
	if err != nil {
		return err
	}
	img, err := imagepack.Open(ctx, input, fs)
	if err != nil {
		return err
	}
	defer img.Close()
	bar := newProgress(a.stderr, "packing")
	defer bar.done()
	opts := imagepack.WriteOptions{BodyLevel: level, Progress: bar.set}
	if len(runs) > 0 {
		if opts.ImageSHA256, err = hashImage(ctx, img); err != nil {
			return err
		}
		say := func(f string, v ...any) { bar.line("bootprof: "+f, v...) }
		if opts.Boot, err = bootOrder(img, opts.ImageSHA256, profilePaths, runs, say); err != nil {
			return err
		}
	}
	opts.Info = func(bootPages int64) []byte {
		b, _ := json.Marshal(packInfo{"bootprof " + version, len(runs), bootPages, levelName, img.Size()})
		return b
	}
	st, err := imagepack.Write(ctx, out, img, opts)
	if err != nil {
		return fmt.Errorf("packing %s into %s: %w", input, out, err)
	}
	bar.done()
	fmt.Fprintf(a.stderr, "%s: %s for an image of %s, in %.1f s\n", out, size(st.PackSize), size(st.ImageSize), time.Since(began).Seconds())
	if st.BootPages > 0 {
		fmt.Fprintf(a.stderr, "boot zone: %d pages (%s) from %s in %s, index %s\n", st.BootPages, size(st.BootPages*4096),
			plural(len(runs), "run"), size(st.BootZone), size(st.BootIndex))
	} else {
		fmt.Fprintf(a.stderr, "no boot zone yet: record a boot with\n  bootprof record --image %s -o run.bprof -- COMMAND {dir}\nand pack again with --profile run.bprof\n", out)
	}
	fmt.Fprintf(a.stdout, "sha256:%x\n", st.Digest)
	return nil
}

// hashImage returns the SHA-256 of an image, which the profiles are compared with.
func hashImage(ctx context.Context, img imagepack.Image) ([32]byte, error) {
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
	}
	return [32]byte(h.Sum(nil)), nil
}
