package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"bootprof/mountclient"
)

func (a *app) statusCmd() *cobra.Command {
	var asJSON, asMetrics, report bool
	var misses string
	cmd := &cobra.Command{
		Use:   "status [DIR]",
		Short: "Show what the running mounts do",
		Args:  args(0, 1, "one DIR at most"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case asJSON && asMetrics, misses != "" && (asJSON || asMetrics):
				return usage(cmd, errors.New("--json, --metrics and --misses exclude each other"))
			case report && (asJSON || asMetrics || misses != "" || len(args) == 0):
				return usage(cmd, errors.New("--report needs a DIR and no other flag"))
			case asMetrics && len(args) == 0:
				return usage(cmd, errors.New("--metrics needs a DIR"))
			case cmd.Flags().Changed("misses") && (misses == "" || len(args) == 0):
				return usage(cmd, errors.New("--misses needs a FILE and a DIR"))
			}
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
			case report:
				return a.printReport(found)
			case misses != "":
				return a.writeMisses(found, misses)
			case asMetrics:
				_, err := a.stdout.Write(found.Metrics())
				return err
			case asJSON:
				return json.NewEncoder(a.stdout).Encode(found)
			}
			return a.printStatus([]mountclient.Status{*found})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "JSON on stdout")
	cmd.Flags().BoolVar(&asMetrics, "metrics", false, "metrics of DIR in Prometheus text format on stdout")
	cmd.Flags().BoolVar(&report, "report", false, "tell how the boot from DIR went, with the files that its boot zone lacked")
	cmd.Flags().StringVar(&misses, "misses", "", "write what DIR fetched outside its boot zone to `RUN.bprof`, for pack --profile")
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
		fmt.Fprintf(w, "  bytes\tboot %s, demand %s, readahead %s, again for damage %s, fill %s\n", size(s.ByCause.Boot), size(s.ByCause.Demand), size(s.ByCause.Readahead), size(s.ByCause.Damaged), size(s.ByCause.Fill))
		for _, m := range s.Mirrors {
			fmt.Fprintf(w, "  server\t%s\n", serverLine(m))
		}
		if s.Hedges > 0 {
			fmt.Fprintf(w, "  hedges\t%d late requests sent to another server, too, %s wasted\n", s.Hedges, size(s.WastedBytes))
		}
		if s.LastError != "" {
			fmt.Fprintf(w, "  last error\t%.0f s ago: %s\n", s.UpSeconds-s.LastErrorSeconds, s.LastError)
		}
		if s.CacheDir != "" {
			fmt.Fprintf(w, "  cache\t%s: %s of %s, %d damaged records%s\n", s.CacheDir, size(s.HeldPages*4096), size(s.ImageBytes), s.CacheDamaged, cacheNotes(s))
		}
		if s.FillPages > 0 {
			fmt.Fprintf(w, "  fill\t%d of %d pages\n", s.FillPages, s.ImagePages)
		}
	}
	return w.Flush()
}

// cacheNotes tells what is not always the case.
func cacheNotes(s mountclient.Status) (notes string) {
	if s.ReusedBytes > 0 {
		notes += fmt.Sprintf(", %s taken from another version", size(s.ReusedBytes))
	}
	if s.CacheLimit > 0 {
		notes += fmt.Sprintf(", %s taken out for the limit of %s", size(s.CacheEvicted*4096), size(s.CacheLimit))
	}
	return notes
}

// serverLine tells of one server.
func serverLine(m mountclient.MirrorStatus) string {
	state := m.State
	if m.Why != "" {
		state += ": " + m.Why
	}
	speed := "speed not known"
	if m.Throughput > 0 {
		speed = fmt.Sprintf("%s/s, %.0f ms", size(int64(m.Throughput)), m.LatencySeconds*1000)
	}
	return fmt.Sprintf("%s: %s in %d requests, %s, %d faults, %s", m.Name, size(m.Bytes), m.Requests, speed, m.Faults, state)
}
