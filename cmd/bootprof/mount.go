package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"bootprof/mountclient"
)

func (a *app) mountCmd() *cobra.Command {
	var o mountclient.MountOptions
	var foreground bool
	memory, fill, cacheSize := 32, "off", ""
	cmd := &cobra.Command{
		Use:   "mount URL[,URL...] DIR",
		Short: "Mount the file system of a pack that lies on a web server",
		Long: `Mount the file system in the pack at URL (http, https or file) read-only at DIR, an empty directory. URL may also be the
index of a split pack, an image with its manifest beside it (URL.bpm), or that manifest. Several URLs are mirrors, used
at the same time. A plain image without a manifest is mounted, too, but neither verified nor fast.

Returns 0 once DIR is ready, non-zero with one line why not. A process stays behind that carries the
mount; it ends when DIR is unmounted with umount(8). While DIR is mounted, a fault of the network makes
readers wait and never fails a read, unless --timeout says so.`,
		Args: args(2, 2, "URL and DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if o.FillRate, err = mountclient.ParseFill(fill); err != nil {
				return usage(cmd, fmt.Errorf("--fill: %w", err))
			}
			if cacheSize != "" {
				if o.CacheBytes, err = mountclient.ParseSize(cacheSize); err != nil {
					return usage(cmd, fmt.Errorf("--cache-size %w", err))
				}
			}
			if err := mountclient.CheckArgs(args[0], args[1], o, memory); err != nil {
				return usage(cmd, err)
			}
			dir, err := filepath.Abs(args[1])
			if err != nil {
				return err
			}
			o.URL, o.Dir, o.Log, o.MemoryBytes = args[0], dir, a.log(), int64(memory)<<20
			if o.CacheDir != "" {
				if o.CacheDir, err = filepath.Abs(o.CacheDir); err != nil {
					return err
				}
			}
			if code := mountclient.RunMount(o, foreground, a.stderr); code != 0 {
				return &codedError{code: code}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.Raw, "raw", false, "do not mount the image: DIR/image is the image file")
	f.BoolVar(&o.Root, "root", false, "DIR becomes the root file system: no signal ends the client, and it needs no file any more once DIR is ready")
	f.BoolVar(&o.Loop, "loop", false, "use a loop device even where the kernel can mount the image file itself")
	f.StringVar(&o.CacheDir, "cache", "", "keep pages in `DIR` for the next mount of the same pack")
	f.StringVar(&cacheSize, "cache-size", "", "keep the cache directory below `SIZE` bytes (500M, 2G): unused packs go first, then chunks no boot needs (default: no limit)")
	f.StringVar(&fill, "fill", fill, "after the boot, bring the rest of the image into the cache at `RATE` bytes per second (500K, 2M, max), then leave the mount to the kernel")
	f.StringVar(&o.Digest, "digest", "", "mount only the pack with this digest, `sha256:HEX` (bootprof inspect prints it)")
	f.StringVar(&o.PublicKey, "pubkey", "", "mount only a pack that is signed (URL.minisig) with this minisign `KEY`: the key or its file")
	f.StringVar(&o.CAFile, "ca", "", "trust the CA certificates in `FILE` (PEM), too")
	f.StringVar(&o.CertFile, "cert", "", "show the client certificate in `FILE` (PEM) to the server")
	f.StringVar(&o.KeyFile, "key", "", "the key of --cert lies in `FILE`; default: in the same one")
	f.StringVar(&o.CredentialsFile, "credentials", "", "`FILE` has one line for the server: user:password or Bearer TOKEN")
	f.StringVar(&o.Proxy, "proxy", "", "reach servers through the proxy at `URL` (default: from the environment)")
	f.IntVar(&memory, "memory", memory, "MiB of decoded pages held in memory when there is no cache")
	f.DurationVar(&o.StartTimeout, "start-timeout", 10*time.Second, "give up if the server gives nothing for so long before DIR is ready; 0: never")
	f.BoolVar(&o.Record, "record", false, "note each page that is read, for status --misses; pages are not pushed ahead, so the boot is slower")
	f.DurationVar(&o.Timeout, "timeout", 0, "fail a read if the server gives nothing for so long; 0: never")
	f.BoolVar(&foreground, "foreground", false, "stay in the foreground until DIR is unmounted")
	return cmd
}
