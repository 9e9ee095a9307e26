package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"bootprof/imagepack"
	"bootprof/imagepack/bpk"
	"bootprof/mountclient"
	"bootprof/profiles"
)

func (a *app) inspectCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect FILE",
		Short: "Show what a pack or a profile holds",
		Args:  args(1, 1, "FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return &codedError{mountclient.ExitFormat, err}
			}
			defer f.Close()
			if st, err := f.Stat(); err == nil && st.IsDir() {
				return &imagepack.InputError{Path: args[0], Err: errors.New("this is a directory; name a pack or a profile")}
			}
			head := make([]byte, 8)
			_, _ = io.ReadFull(f, head)
			if _, err := os.Stat(args[0] + bpk.ManifestSuffix); err == nil || bpk.IsPack(head) {
				return a.inspectPack(args[0], asJSON)
			}
			run, err := profiles.ReadFile(args[0])
			if errors.Is(err, profiles.ErrNotProfile) {
				return &imagepack.InputError{Path: args[0], Err: errors.New("neither a bootprof pack nor a profile")}
			}
			if err != nil {
				return err
			}
			return a.inspectRun(run, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "JSON on stdout")
	return cmd
}

// packReport is what inspect tells of a pack. Sizes are bytes.
type packReport struct {
	Format      string          `json:"format"`
	Digest      string          `json:"digest"`
	PackSize    int64           `json:"pack_size"`
	ImageSize   int64           `json:"image_size"`
	ImageSHA256 string          `json:"image_sha256"`
	Filesystem  string          `json:"filesystem"`
	BootPages   int64           `json:"boot_pages"`
	BootRanges  int             `json:"boot_ranges"`
	BootChunks  int             `json:"boot_chunks"`
	BootZone    int64           `json:"boot_zone"`
	BootStart   int64           `json:"boot_start"` // bytes that a client needs before the boot zone
	BodyChunks  int             `json:"body_chunks"`
	Body        int64           `json:"body"`
	Info        json.RawMessage `json:"info,omitempty"`
}

func (a *app) inspectPack(path string, asJSON bool) error {
	p, err := openPack(path, path)
	if err != nil {
		return err
	}
	defer p.Close()
	h := p.Header
	r := packReport{
		Format: fmt.Sprintf("bpk %d.%d", h.Major, h.Minor), Digest: fmt.Sprintf("sha256:%x", p.Digest), PackSize: h.PackSize,
		ImageSize: h.ImageSize, ImageSHA256: fmt.Sprintf("%x", h.ImageSHA256), Filesystem: h.Filesystem,
		BootPages: h.BootPages, BootRanges: len(p.Boot.Ranges), BootChunks: len(p.Boot.Chunks), BootZone: h.Boot.Len, BootStart: h.Boot.PackOff,
	}
	switch {
	case h.Features&bpk.FeatureBeside != 0:
		r.Format += ", manifest"
		r.BootZone = h.BootPages * bpk.PageSize
	case h.Features&bpk.FeatureSplit != 0:
		r.Format += ", split"
	}
	seen := make(map[[32]byte]bool)
	if err := p.Chunks(func(e bpk.Entry) error {
		r.BodyChunks++
		if !seen[e.SHA256] {
			seen[e.SHA256] = true
			r.Body += e.Len
		}
		return nil
	}); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if r.Info, err = p.Info(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if asJSON {
		return json.NewEncoder(a.stdout).Encode(r)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "format\t%s\n", r.Format)
	fmt.Fprintf(w, "digest\t%s\n", r.Digest)
	fmt.Fprintf(w, "pack\t%s\n", size(r.PackSize))
	fmt.Fprintf(w, "image\t%s, %s, SHA-256 %s\n", cmp.Or(r.Filesystem, "no known file system"), size(r.ImageSize), r.ImageSHA256)
	fmt.Fprintf(w, "boot zone\t%d pages (%s) in %d ranges, stored in %s, %d chunks; %s before it\n", r.BootPages, size(r.BootPages*bpk.PageSize),
		r.BootRanges, size(r.BootZone), r.BootChunks, size(r.BootStart))
	fmt.Fprintf(w, "body\t%d chunks in %s\n", r.BodyChunks, size(r.Body))
	if len(r.Info) > 0 {
		fmt.Fprintf(w, "made by\t%s\n", r.Info)
	}
	return w.Flush()
}

// runReport is what inspect tells of a profile.
type runReport struct {
	profiles.Header
	ImageSHA256 string          `json:"image_sha256"`
	Pages       int64           `json:"pages"`
	Ranges      int             `json:"ranges"`
	Files       int             `json:"file_touches"`
	Marks       []profiles.Mark `json:"marks"`
}

func (a *app) inspectRun(run *profiles.Run, asJSON bool) error {
	r := runReport{Header: run.Header, ImageSHA256: fmt.Sprintf("%x", run.Header.ImageSHA256), Ranges: len(run.Touches),
		Files: len(run.FileTouches), Marks: run.Marks}
	for _, t := range run.Touches {
		r.Pages += (t.Len + profiles.PageSize - 1) / profiles.PageSize
	}
	if asJSON {
		return json.NewEncoder(a.stdout).Encode(r)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "profile of\t%s image of %s, SHA-256 %s\n", r.Filesystem, size(r.ImageSize), r.ImageSHA256)
	fmt.Fprintf(w, "recorded\tby %s, readahead %d, coarse: %t, Linux %s, %s\n", r.Method, r.Readahead, r.Coarse, r.Kernel, r.Machine)
	fmt.Fprintf(w, "ended\tafter %.2f s by: %s\n", time.Duration(r.Duration).Seconds(), r.End)
	fmt.Fprintf(w, "touches\t%d pages (%s) in %d ranges, %d by path\n", r.Pages, size(r.Pages*profiles.PageSize), r.Ranges, r.Files)
	for _, m := range r.Marks {
		fmt.Fprintf(w, "mark\t%s at %.3f s\n", m.Name, m.At.Seconds())
	}
	return w.Flush()
}
