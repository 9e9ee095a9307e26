package recorder

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"bootprof/internal/testrig"
)

// readAt reads one page of the recording image.
func readAt(s Session, page int64) error {
	f, err := os.Open(s.Image)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.ReadAt(make([]byte, 4096), page*4096)
	return err
}

func TestRun(t *testing.T) {
	testrig.NeedMounts(t)
	o, _ := randomImage(t, 1<<20)
	o.Command = []string{"machine", "vmlinuz"}
	o.Machine = Machine{Kernel: "6.1.0-guest", Class: "x86_64, 2 cpus, 1 GiB", Readahead: 4096, TimeScaled: true}
	o.Run = func(_ context.Context, s Session) (string, error) {
		if err := readAt(s, 7); err != nil {
			return "", err
		}
		s.Mark("login")
		if s.Pages() != 1 {
			t.Errorf("%d pages at login", s.Pages())
		}
		return "shutdown", readAt(s, 3)
	}
	run := mustRecord(t, o)
	wantPages(t, run, 3, 7)
	wantEnd(t, run, "shutdown", "start login end")
	h := run.Header
	if h.Kernel != "6.1.0-guest" || h.Machine != "x86_64, 2 cpus, 1 GiB" || h.Readahead != 4096 || !h.TimeScaled || strings.Join(h.Command, " ") != "machine vmlinuz" {
		t.Errorf("header %+v", h)
	}
}

func TestRunEnds(t *testing.T) {
	testrig.NeedMounts(t)
	broken := errors.New("broken")
	for _, tt := range []struct {
		name     string
		run      func(ctx context.Context, s Session) (string, error)
		duration time.Duration
		cancel   bool
		end      string
		want     error
	}{
		{"fails", func(_ context.Context, s Session) (string, error) { return "failed", errors.Join(readAt(s, 1), broken) }, 0, false, "failed", broken},
		{"reads nothing", func(context.Context, Session) (string, error) { return "shutdown", nil }, 0, false, "shutdown", ErrNothingRead},
		{"time is over", func(ctx context.Context, s Session) (string, error) {
			err := readAt(s, 1)
			<-ctx.Done()
			return "", errors.Join(err, context.Cause(ctx))
		}, 50 * time.Millisecond, false, "duration", errDuration},
		{"time is over, but it is done", func(ctx context.Context, s Session) (string, error) {
			err := readAt(s, 1)
			<-ctx.Done()
			return "until", err
		}, 50 * time.Millisecond, false, "until", nil},
		{"interrupted", func(ctx context.Context, s Session) (string, error) {
			err := readAt(s, 1)
			<-ctx.Done()
			return "", errors.Join(err, context.Cause(ctx))
		}, 0, true, "interrupted", context.Canceled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, _ := randomImage(t, 1<<20)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			o.Duration = tt.duration
			o.Run = func(ctx context.Context, s Session) (string, error) {
				if tt.cancel {
					cancel()
				}
				return tt.run(ctx, s)
			}
			run, err := recordUntilTime(t, ctx, o)
			if !errors.Is(err, tt.want) || run == nil || run.Header.End != tt.end {
				t.Fatalf("got %v, want %v; run %+v", err, tt.want, run)
			}
			if tt.want != ErrNothingRead {
				wantPages(t, run, 1)
			}
		})
	}
}
