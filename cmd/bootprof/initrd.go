package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"

	"bootprof/imagepack"
	"bootprof/initramfs"
	"bootprof/internal/atomicfile"
	"bootprof/internal/kmod"
	"bootprof/internal/minisig"
	"bootprof/mountclient"
)

// clientName is the program that an overlay carries.
const clientName = "bootprof-mount"

// An initrdJob makes an overlay.
type initrdJob struct {
	out, client, modules, ca, pubkey, compress string
}

func (a *app) initrdCmd() *cobra.Command {
	var j initrdJob
	cmd := &cobra.Command{
		Use:   "initrd -o OVERLAY.cpio",
		Short: "Make an initrd to load beside a stock one, which can boot from a pack then",
		Long: `Make a small initrd that a boot loader loads behind a distribution's own, unmodified one (initramfs-tools, with or without
live-boot): initrd=stock.img,OVERLAY.cpio. The machine then boots with bootprof=URL, or boot=live httpfs=URL.
The kernel's modules that the stock initrd may lack come from --modules. docs/boot.md has the kernel's parameters.`,
		Args: args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if j.out == "" {
				return usage(cmd, errors.New("-o is needed"))
			}
			if !slices.Contains([]string{"xz", "zstd", "gzip", "none"}, j.compress) {
				return usage(cmd, fmt.Errorf("--compress %s: want xz, zstd, gzip or none", j.compress))
			}
			return a.initrd(cmd.Context(), &j)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&j.out, "output", "o", "", "`OVERLAY.cpio`, the initrd to write")
	f.StringVar(&j.client, "client", "", "the boot-time `PROGRAM` (default: "+clientName+" beside this program or on the PATH)")
	f.StringVar(&j.modules, "modules", "", "add the kernel's modules fuse, loop, overlay, erofs, squashfs and what they need from `DIR`, a /lib/modules/VERSION")
	f.StringVar(&j.ca, "ca", "", "trust the CA certificates in `FILE` (PEM), too")
	f.StringVar(&j.pubkey, "pubkey", "", "boot only packs that are signed with this minisign `KEY`: the key or its file")
	f.StringVar(&j.compress, "compress", "xz", "`METHOD`: xz (by the program of that name), zstd, gzip or none")
	return cmd
}

func (a *app) initrd(ctx context.Context, j *initrdJob) error {
	if err := checkWritable(j.out, false); err != nil {
		return err
	}
	o, err := j.overlay()
	if err != nil {
		return err
	}
	var cpio, packed bytes.Buffer
	if _, err := o.WriteTo(&cpio); err != nil {
		return err
	}
	if err := compress(ctx, j.compress, &packed, &cpio); err != nil {
		return err
	}
	f, err := atomicfile.Create(j.out, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(packed.Bytes()); err != nil {
		return err
	}
	if err := f.Commit(); err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "%s: %d bytes\n", j.out, packed.Len())
	return nil
}

// overlay reads what goes into it.
func (j *initrdJob) overlay() (*initramfs.Overlay, error) {
	client, err := findClient(j.client)
	if err != nil {
		return nil, err
	}
	o := &initramfs.Overlay{}
	if o.Client, err = os.ReadFile(client); err != nil {
		return nil, &codedError{mountclient.ExitFormat, err}
	}
	if !bytes.HasPrefix(o.Client, []byte("\x7fELF")) {
		return nil, &imagepack.InputError{Path: client, Err: errors.New("--client wants the program " + clientName + ", and this is none")}
	}
	if j.ca != "" {
		if o.CA, err = os.ReadFile(j.ca); err != nil {
			return nil, &codedError{mountclient.ExitFormat, err}
		}
		if !bytes.Contains(o.CA, []byte("-----BEGIN CERTIFICATE-----")) {
			return nil, &imagepack.InputError{Path: j.ca, Err: errors.New("no certificate in PEM is in it")}
		}
	}
	if j.pubkey != "" {
		if o.PublicKey, err = publicKeyText(j.pubkey); err != nil {
			return nil, err
		}
	}
	if j.modules != "" {
		o.Release = filepath.Base(filepath.Clean(j.modules))
		var missing []string
		if o.Modules, missing, err = kmod.Load(os.DirFS(j.modules), initramfs.BootModules); err != nil {
			return nil, &imagepack.InputError{Path: j.modules, Err: err}
		}
		if len(missing) > 0 {
			return nil, &imagepack.InputError{Path: j.modules, Err: fmt.Errorf("the kernel has no module %s", strings.Join(missing, ", "))}
		}
	}
	return o, nil
}

// findClient returns the boot-time program: that of --client, that beside this program, or that on the PATH.
func findClient(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), clientName)
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	if path, err := exec.LookPath(clientName); err == nil {
		return path, nil
	}
	return "", &codedError{mountclient.ExitSetup, errors.New(clientName + " is neither beside this program nor on the PATH: name it with --client")}
}

// publicKeyText returns the key of a file or of the flag itself, checked, as a file to be read at boot.
func publicKeyText(key string) ([]byte, error) {
	text := []byte(key)
	if b, err := os.ReadFile(key); err == nil {
		text = b
	} else if strings.Contains(key, "/") {
		return nil, &codedError{mountclient.ExitFormat, err}
	}
	if _, err := minisig.ParsePublicKey(string(text)); err != nil {
		return nil, &codedError{mountclient.ExitUsage, fmt.Errorf("--pubkey: %w", err)}
	}
	return text, nil
}

// compress writes in to out by a method of --compress. The best of Go's libraries for xz makes the overlay 10 % larger than the
// program, whose CRC-32 is the only check that the kernel's decoder knows.
func compress(ctx context.Context, method string, out io.Writer, in *bytes.Buffer) error {
	var w io.WriteCloser
	var err error
	switch method {
	case "none":
		_, err := in.WriteTo(out)
		return err
	case "xz":
		path, err := exec.LookPath("xz")
		if err != nil {
			return &codedError{mountclient.ExitSetup, errors.New("the program xz is missing: install it (Debian: xz-utils), or choose --compress zstd or gzip")}
		}
		cmd := exec.CommandContext(ctx, path, "--format=xz", "--check=crc32", "--x86", "--lzma2=preset=9e", "--threads=1", "--stdout")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	case "zstd":
		w, err = zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	case "gzip":
		w, err = gzip.NewWriterLevel(out, gzip.BestCompression)
	}
	if err != nil {
		return err
	}
	if _, err := in.WriteTo(w); err != nil {
		return err
	}
	return w.Close()
}
