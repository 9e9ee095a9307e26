package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"bootprof/imagepack"
	"bootprof/imagepack/bpk"
	"bootprof/imagepack/sign"
	"bootprof/mountclient"
)

func (a *app) verifyCmd() *cobra.Command {
	var pubkey string
	cmd := &cobra.Command{
		Use:   "verify FILE|URL",
		Short: "Check every byte of a pack against its digests",
		Long: `Check a pack wholly: header, indexes, every chunk, and the SHA-256 of the image that they make; of a split pack
all chunk files, of a manifest the image beside it. The first damaged part is named. With --pubkey the signature
beside it, too. A URL is downloaded to a temporary directory first.`,
		Args: args(1, 1, "FILE or URL"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.verify(cmd.Context(), args[0], pubkey) },
	}
	cmd.Flags().StringVar(&pubkey, "pubkey", "", "a minisign public `KEY` or a file with one: the pack must be signed with it")
	return cmd
}

func (a *app) verify(ctx context.Context, name, pubkey string) error {
	path := name
	if !strings.Contains(name, "://") {
		return a.verifyFile(ctx, path, name, pubkey)
	}
	dir, err := os.MkdirTemp("", "bootprof-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if path, err = a.fetch(ctx, name, dir, pubkey != ""); err != nil {
		return err
	}
	if err = a.verifyFile(ctx, path, name, pubkey); err != nil && ctx.Err() == nil {
		// The copy is gone by the time this is read: what is damaged is named as on the server.
		return &codedError{exitCode(err), errors.New(strings.ReplaceAll(err.Error(), dir+"/", name[:strings.LastIndexByte(name, '/')+1]))}
	}
	return err
}

// verifyFile verifies the pack at path; name stands for it.
func (a *app) verifyFile(ctx context.Context, path, name, pubkey string) error {
	p, err := openPack(path, name)
	if err != nil {
		return err
	}
	defer p.Close()
	if p.Header.Features&bpk.FeatureBeside != 0 && !strings.HasSuffix(path, bpk.ManifestSuffix) {
		path += bpk.ManifestSuffix
	}
	if pubkey != "" {
		if err := checkSignature(path, pubkey, p.Digest); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	bar := newProgress(a.stderr, "verifying")
	defer bar.close()
	image, err := imagepack.ExtractTemp(ctx, p.Pack, bar.set)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	image.Close()
	if file, ok := bpk.ImageName(path); ok && p.Header.Features&bpk.FeatureBeside != 0 {
		// Zeros have no chunk: what is in their place in the file shows in its own hash only.
		bar.step("hashing the image")
		if err := checkImage(ctx, file, p.Header.ImageSHA256, bar.set); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	bar.close()
	what, signed := size(p.Header.PackSize), ""
	switch {
	case p.Header.Features&bpk.FeatureBeside != 0:
		what = "manifest of " + what
	case p.Header.Features&bpk.FeatureSplit != 0:
		what = "index of " + what + " and its chunk files"
	}
	if pubkey != "" {
		signed = ", signed with the key"
	}
	fmt.Fprintf(a.stderr, "%s is whole: %s, image of %s%s\n", name, what, size(p.Header.ImageSize), signed)
	fmt.Fprintf(a.stdout, "sha256:%x\n", p.Digest)
	return nil
}

// fetch downloads a pack with all that belongs to it into dir and returns its path there.
func (a *app) fetch(ctx context.Context, name, dir string, signed bool) (string, error) {
	bar := newProgress(a.stderr, "downloading")
	defer bar.close()
	path, err := mountclient.Fetch(ctx, name, dir, a.log(), bar.set)
	if err != nil || !signed {
		return path, err
	}
	u, err := url.Parse(name)
	if err != nil {
		return "", err
	}
	if strings.HasSuffix(path, bpk.ManifestSuffix) && !strings.HasSuffix(u.Path, bpk.ManifestSuffix) {
		u.Path += bpk.ManifestSuffix
	}
	u.Path += sign.Suffix
	f, err := os.Create(path + sign.Suffix)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return path, mountclient.Download(ctx, u.String(), f, a.log(), nil)
}

// checkSignature checks the signature beside the pack at path.
func checkSignature(path, pubkey string, digest [32]byte) error {
	f, err := os.Open(path + sign.Suffix)
	if errors.Is(err, fs.ErrNotExist) {
		return &codedError{mountclient.ExitTrust, fmt.Errorf("not signed: there is no %s", filepath.Base(path)+sign.Suffix)}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	sig, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return err
	}
	err = sign.Check(path, sig, pubkey, digest)
	var mismatch *sign.MismatchError
	var key *sign.KeyError
	switch {
	case errors.As(err, &mismatch):
		return &codedError{mountclient.ExitTrust, err}
	case errors.As(err, &key):
		return &codedError{mountclient.ExitUsage, fmt.Errorf("--pubkey: %w", err)} // as mount has it
	}
	return err
}

// checkImage compares the SHA-256 of an image file.
func checkImage(ctx context.Context, path string, want [32]byte, progress func(done, total int64)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	sum := sha256.New()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(sum, f, 4<<20)
		if done, _ := f.Seek(0, io.SeekCurrent); n > 0 {
			progress(done, st.Size())
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if [32]byte(sum.Sum(nil)) != want {
		return &bpk.CorruptError{What: path, Why: "its SHA-256 is not that of the manifest"}
	}
	return nil
}
