package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"bootprof/mountclient"
)

func (a *app) verifyCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "verify FILE|URL",
		Short: "Check every byte of a pack against its digests",
		Long: `Check a pack wholly: header, indexes, every chunk, and the SHA-256 of the image that they make. The first
damaged part is named. A URL is downloaded to a temporary file first.`,
		Args: args(1, 1, "FILE or URL"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.verify(cmd.Context(), args[0]) },
	}
}

func (a *app) verify(ctx context.Context, name string) error {
	path := name
	if strings.Contains(name, "://") {
		f, err := os.CreateTemp("", "bootprof-pack-")
		if err != nil {
			return err
		}
		defer os.Remove(f.Name())
		defer f.Close()
		bar := newProgress(a.stderr, "downloading")
		err = mountclient.Download(ctx, name, f, a.log(), bar.set)
		bar.done()
		if err != nil {
			return err
		}
		path = f.Name()
	}
	p, done, err := openPack(path, name)
	if err != nil {
		return err
	}
	defer done()
	bar := newProgress(a.stderr, "verifying")
	defer bar.done()
	var checked int64
	image, err := os.CreateTemp("", "bootprof-image-")
	if err != nil {
		return err
	}
	defer image.Close()
	os.Remove(image.Name())
	if err := image.Truncate(p.Header.ImageSize); err != nil {
		return err
	}
	if err := p.Extract(ctx, countWrites{image, func(n int) {
		checked += int64(n)
		bar.set(checked, p.Header.ImageSize)
	}}, image); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, err := p.Info(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	bar.done()
	fmt.Fprintf(a.stderr, "%s is whole: %s, image of %s\n", name, size(p.Header.PackSize), size(p.Header.ImageSize))
	fmt.Fprintf(a.stdout, "sha256:%x\n", p.Digest)
	return nil
}

// countWrites tells count how many bytes were written.
type countWrites struct {
	*os.File
	count func(n int)
}

func (c countWrites) WriteAt(b []byte, off int64) (int, error) {
	n, err := c.File.WriteAt(b, off)
	c.count(n)
	return n, err
}
