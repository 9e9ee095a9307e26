// Bootprof-mount is the boot-time client alone, for an initramfs: `bootprof mount` without the other verbs.
//
// It links nothing that a boot does not need; imports_test.go holds it to that.
package main

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"bootprof/mountclient"
)

func main() {
	mountclient.MarkRoot(os.Args[1:])
	os.Exit(run(os.Args[1:], os.Stderr))
}

func run(args []string, stderr io.Writer) int {
	var o mountclient.MountOptions
	fs := flag.NewFlagSet("bootprof-mount", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprintln(stderr, "usage: bootprof-mount [flags] URL[,URL...] DIR")
		fs.PrintDefaults()
	}
	memory := fs.Int("memory", 32, "MiB of decoded pages held in memory when there is no cache")
	foreground := fs.Bool("foreground", false, "stay in the foreground until DIR is unmounted")
	verbose := fs.Bool("verbose", false, "tell more on stderr")
	fs.BoolVar(&o.Raw, "raw", false, "do not mount the image: DIR/image is the image file")
	fs.BoolVar(&o.Root, "root", false, "DIR becomes the root file system: no signal ends the client, and it needs no file any more once DIR is ready")
	fs.BoolVar(&o.Loop, "loop", false, "use a loop device even where the kernel can mount the image file itself")
	fs.StringVar(&o.CacheDir, "cache", "", "keep pages in `DIR` for the next mount of the same pack")
	cacheSize := fs.String("cache-size", "", "keep the cache directory below `SIZE` bytes (500M, 2G); default: no limit")
	fill := fs.String("fill", "off", "after the boot, bring the rest of the image into the cache at `RATE` bytes per second (500K, 2M, max), then leave the mount to the kernel")
	fs.StringVar(&o.Digest, "digest", "", "mount only the pack with this digest, `sha256:HEX`")
	fs.StringVar(&o.PublicKey, "pubkey", "", "mount only a pack that is signed (URL.minisig) with this minisign `KEY`: the key or its file")
	fs.StringVar(&o.CAFile, "ca", "", "trust the CA certificates in `FILE` (PEM), too")
	fs.StringVar(&o.CertFile, "cert", "", "show the client certificate in `FILE` (PEM) to the server")
	fs.StringVar(&o.KeyFile, "key", "", "the key of --cert lies in `FILE`; default: in the same one")
	fs.StringVar(&o.CredentialsFile, "credentials", "", "`FILE` has one line for the server: user:password or Bearer TOKEN")
	fs.StringVar(&o.Proxy, "proxy", "", "reach servers through the proxy at `URL` (default: from the environment)")
	fs.BoolVar(&o.Record, "record", false, "note each page that is read, for status --misses; pages are not pushed ahead, so the boot is slower")
	fs.DurationVar(&o.StartTimeout, "start-timeout", 10*time.Second, "give up if the server gives nothing for so long before DIR is ready; 0: never")
	fs.DurationVar(&o.Timeout, "timeout", 0, "fail a read if the server gives nothing for so long; 0: never")
	if err := fs.Parse(args); err != nil {
		if err == flag.ErrHelp {
			return mountclient.ExitOK
		}
		return mountclient.ExitUsage
	}
	if fs.NArg() != 2 {
		fmt.Fprintf(stderr, "bootprof: want URL and DIR, got %d arguments (see bootprof-mount -h)\n", fs.NArg())
		return mountclient.ExitUsage
	}
	o.URL = fs.Arg(0)
	if mountclient.IsHTTPFS() {
		o.AsHTTPFS()
	}
	var err error
	if o.FillRate, err = mountclient.ParseFill(*fill); err != nil {
		err = fmt.Errorf("-fill: %w", err)
	} else if *cacheSize != "" {
		if o.CacheBytes, err = mountclient.ParseSize(*cacheSize); err != nil {
			err = fmt.Errorf("-cache-size %w", err)
		}
	}
	if err == nil {
		err = mountclient.CheckArgs(fs.Arg(0), fs.Arg(1), o, *memory)
	}
	// An empty value is a variable of a script that is not set: -pubkey "$KEY" must not mean "any pack".
	fs.Visit(func(f *flag.Flag) {
		if f.Value.String() == "" {
			err = fmt.Errorf("-%s has an empty value", f.Name)
		}
	})
	if err != nil {
		fmt.Fprintf(stderr, "bootprof: %v (see bootprof-mount -h)\n", err)
		return mountclient.ExitUsage
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	o.Log, o.MemoryBytes = mountclient.NewLog(stderr, level), int64(*memory)<<20
	for _, p := range []struct {
		path string
		abs  *string
	}{{fs.Arg(1), &o.Dir}, {o.CacheDir, &o.CacheDir}} {
		if p.path == "" {
			continue
		}
		abs, err := filepath.Abs(p.path)
		if err != nil {
			fmt.Fprintln(stderr, "bootprof:", err)
			return mountclient.ExitOther
		}
		*p.abs = abs
	}
	return mountclient.RunMount(o, *foreground, stderr)
}
