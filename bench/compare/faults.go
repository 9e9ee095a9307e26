package compare

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"bootprof/bench"
	"bootprof/bench/faults"
	"bootprof/bench/link"
)

// Faults says that peers are to be looked at under faults.
type Faults struct {
	Images Images
}

// A FaultRow is what one peer does under each fault.
type FaultRow struct {
	Peer     string           `json:"peer"`
	Outcomes []faults.Outcome `json:"outcomes"`
}

// faultLink is quick enough for the transfers, and slow enough that a client is under way when the fault comes.
var faultLink = link.Params{Bits: 50e6, RTT: 10 * time.Millisecond}

// faultTogether is how many peers are looked at at the same time: what counts is what they do, not how fast.
const faultTogether = 8

// faultTime is what one of them takes, with a copy of the images and up to 15 s for a read that hangs.
const faultTime = 30 * time.Second

func (f *Faults) plan() part {
	all := f.peers(programs{})
	peers := len(all)
	places := peers
	for _, p := range all {
		if p.Whole { // the download takes as long as the rest
			places++
		}
	}
	batches := (places*len(faults.All()) + faultTogether - 1) / faultTogether
	return part{"faults", fmt.Sprintf("%d peers, %d faults each, %d at a time", peers, len(faults.All()), faultTogether),
		time.Duration(batches) * faultTime}
}

// peers are all that show an image as a file, the slow one first.
func (f *Faults) peers(p programs) []bench.Source {
	im := f.Images
	squashfs := im.squashfs()
	return []bench.Source{
		bench.FetchAllSource(wayFetchAll, squashfs),
		bench.PeerSource(bench.Httpfs2(squashfs), squashfs),
		bench.PeerSource(bench.Httpdirfs(squashfs, false), squashfs),
		bench.PeerSource(bench.Nbdkit("", squashfs, nil, nil), squashfs),
		bench.PeerSource(bench.NbdkitRetry(squashfs), squashfs),
		bench.PeerSource(bench.Rclone(squashfs), squashfs),
		bench.PeerSource(bench.Desync("desync", p.desync, im.desync(), false, false), squashfs),
		bench.MountedSource("bootprof, unprepared", p.bootprof, squashfs),
		bench.MountedSource("bootprof, reordered", p.bootprof, im.reordered()),
		bench.MountedSource("bootprof, split", p.bootprof, im.split()),
		bench.MountedSource(wayBootprof, p.bootprof, im.pack()),
	}
}

// run looks at all peers.
func (f *Faults) run(ctx context.Context, c Config) []FaultRow {
	peers := f.peers(programs{bootprof: c.Bootprof, desync: c.Desync})
	rows := make([]FaultRow, len(peers))
	places := make(chan struct{}, faultTogether)
	var wg sync.WaitGroup
	var mu sync.Mutex // guards Progress
	for i, p := range peers {
		rows[i] = FaultRow{Peer: p.Name, Outcomes: make([]faults.Outcome, len(faults.All()))}
		for k, fault := range faults.All() {
			wg.Go(func() {
				places <- struct{}{}
				defer func() { <-places }()
				o := faults.Try(ctx, p, faultLink, fault)
				rows[i].Outcomes[k] = o
				mu.Lock()
				defer mu.Unlock()
				fmt.Fprintf(c.Progress, "%s, %s: %s\n", p.Name, fault.Name, o)
			})
		}
	}
	wg.Wait()
	return rows
}

// writeFaults is the table in Markdown.
func writeFaults(b *strings.Builder, rows []FaultRow) {
	all := faults.All()
	b.WriteString("| client |")
	for _, f := range all {
		fmt.Fprintf(b, " %s |", f.Name)
	}
	b.WriteString("\n| --- |" + strings.Repeat(" --- |", len(all)) + "\n")
	for _, r := range rows {
		fmt.Fprintf(b, "| %s |", r.Peer)
		for _, o := range r.Outcomes {
			fmt.Fprintf(b, " %s |", strings.ReplaceAll(o.String(), "|", "\\|"))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	for _, f := range all {
		fmt.Fprintf(b, "- %s: %s\n", f.Name, f.What)
	}
}
