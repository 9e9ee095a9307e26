package main

import (
	"encoding/hex"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/mountclient"
	"bootprof/profiles"
)

// writeMisses writes what a running client had to fetch outside its boot zone as a run of the image.
func (a *app) writeMisses(s *mountclient.Status, out string) error {
	if s.Digest == "" {
		return fmt.Errorf("%s has a plain image, whose misses serve no pack: pack it, and mount that", s.Dir)
	}
	if err := checkWritable(out, false); err != nil {
		return err
	}
	m, err := mountclient.ReadMisses("", s.PID)
	if err != nil {
		return err
	}
	run, err := runOfMisses(m, time.Now())
	if err != nil {
		return err
	}
	if len(run.Touches) == 0 {
		fmt.Fprintf(a.stderr, "no misses at %s: %s is not written\n", s.Dir, out)
		return nil
	}
	if err := profiles.WriteFile(out, run); err != nil {
		return err
	}
	var bytes int64
	for _, t := range run.Touches {
		bytes += t.Len
	}
	what := "that the boot zone of %s does not have"
	if m.Reads {
		what = "read of %s"
	}
	fmt.Fprintf(a.stderr, "%s: %d pages (%s) "+what+"\n", out, bytes/profiles.PageSize, size(bytes), s.URL)
	if m.Dropped > 0 {
		fmt.Fprintf(a.stderr, "%d later misses are not in it: the client keeps no more\n", m.Dropped)
	}
	return nil
}

// runOfMisses makes a run of misses. Its touches are whole chunks, so it is a coarse one, unless the client recorded reads; its
// time begins when the mount was ready.
func runOfMisses(m *mountclient.Misses, now time.Time) (*profiles.Run, error) {
	sum, err := hex.DecodeString(m.ImageSHA256)
	if err != nil || len(sum) != 32 {
		return nil, fmt.Errorf("the client answered with the image digest %q", m.ImageSHA256)
	}
	up := time.Duration(m.UpSeconds * float64(time.Second))
	ready := time.Duration(m.ReadySeconds * float64(time.Second))
	run := &profiles.Run{Header: profiles.Header{
		ImageSize: m.ImageBytes, ImageSHA256: [32]byte(sum), Filesystem: m.Filesystem, Method: profiles.MethodMisses,
		Coarse: true, End: "status", RecordedAt: now.Add(-up).Unix(), Duration: int64(max(0, up-ready)),
	}}
	if m.Reads {
		run.Header.Method, run.Header.Coarse = profiles.MethodReads, false
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		run.Header.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var seen profiles.PageSet
	for _, miss := range m.List {
		at := max(0, time.Duration(miss.AfterNS)-ready)
		for _, r := range seen.Add(miss.Page*profiles.PageSize, miss.Pages*profiles.PageSize) {
			run.Touches = append(run.Touches, profiles.Touch{At: at, ImageOff: r.ImageOff, Len: r.Len})
		}
	}
	return run, nil
}
