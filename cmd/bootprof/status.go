package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"bootprof/mountclient"
)

func (a *app) statusCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [DIR]",
		Short: "Show what the running mounts do",
		Args:  args(0, 1, "one DIR at most"),
		RunE: func(_ *cobra.Command, args []string) error {
			all, err := mountclient.ReadStatus("")
			if err != nil {
				return err
			}
			if len(args) == 0 {
				if asJSON {
					if all == nil {
						all = []mountclient.Status{}
					}
					return json.NewEncoder(a.stdout).Encode(all)
				}
				return a.printStatus(all)
			}
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			// The client of a mount that was just undone may still be on its way out: the youngest counts.
			var found *mountclient.Status
			for i := range all {
				if s := &all[i]; s.Dir == dir && (found == nil || s.UpSeconds < found.UpSeconds) {
					found = s
				}
			}
			switch {
			case found == nil:
				return &codedError{mountclient.ExitSetup, fmt.Errorf("no bootprof mount at %s (bootprof status lists all)", dir)}
			case asJSON:
				return json.NewEncoder(a.stdout).Encode(found)
			}
			return a.printStatus([]mountclient.Status{*found})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "JSON on stdout")
	return cmd
}

func (a *app) printStatus(all []mountclient.Status) error {
	if len(all) == 0 {
		what := "no bootprof mounts"
		if os.Geteuid() != 0 {
			what += " that this user may see: ask with sudo"
		}
		fmt.Fprintln(a.stderr, what)
		return nil
	}
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	for i, s := range all {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if s.LocalFile != "" {
			fmt.Fprintf(w, "%s\t%s\n", s.Dir, s.URL)
			fmt.Fprintf(w, "  local\tserved by the kernel from %s, no client needed\n", s.LocalFile)
			continue
		}
		hot := "not yet"
		if s.HotSeconds > 0 {
			hot = fmt.Sprintf("after %.2f s", s.HotSeconds)
		}
		fmt.Fprintf(w, "%s\t%s\n", s.Dir, s.URL)
		fmt.Fprintf(w, "  phase\t%s, up %.0f s, pid %d\n", s.Phase, s.UpSeconds, s.PID)
		fmt.Fprintf(w, "  ready\tafter %.2f s\n", s.ReadySeconds)
		fmt.Fprintf(w, "  boot pages\t%d of %d, all %s; %d pushed ahead of a read\n", s.BootPagesLoaded, s.BootPages, hot, s.PushedPages)
		fmt.Fprintf(w, "  reads\t%d that the page cache did not have, %d chunks missed, readers waited %.2f s\n", s.Reads, s.Misses, s.StalledSeconds)
		fmt.Fprintf(w, "  network\t%s in %d requests, %d repeated, %d damaged chunks\n", size(s.Bytes), s.Requests, s.Retries, s.DamagedChunks)
		if s.CacheDir != "" {
			fmt.Fprintf(w, "  cache\t%s: %s of %s, %d damaged records\n", s.CacheDir, size(s.HeldPages*4096), size(s.ImageBytes), s.CacheDamaged)
		}
		if s.FillPages > 0 {
			fmt.Fprintf(w, "  fill\t%d of %d pages\n", s.FillPages, s.ImagePages)
		}
	}
	return w.Flush()
}
