package mountclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"bootprof/internal/faultserver"
)

// Outages of the network itself, in a network namespace of their own: what is sent is lost, and TCP is the kernel's.
//
//   - lost: packets vanish (a qdisc that drops all), as with a cable out behind the next switch.
//   - down: the interface is down; connections stay, new ones are refused at once.

const roleCable = "cable" // cableMain: HOW PHASE DURATION; prints how late the next byte came

func TestCableOut(t *testing.T) {
	needRig(t)
	if _, err := exec.LookPath("tc"); err != nil {
		t.Skip("needs tc (iproute2)")
	}
	for _, how := range []string{"lost", "down"} {
		for _, phase := range []string{"connecting", "idle connection", "before head", "in body"} {
			for _, d := range []string{"2500ms", "8s"} {
				t.Run(how+", "+phase+", "+d, func(t *testing.T) {
					t.Parallel()
					cmd, out := role(roleCable, how, phase, d)
					cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNET
					if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
						t.Fatalf("%v\n%s", err, out)
					}
					lines := strings.Fields(out.String())
					late, err := time.ParseDuration(lines[len(lines)-1])
					if err != nil {
						t.Fatal(out)
					}
					t.Logf("%v", late)
					if late > time.Second {
						t.Errorf("the network was back for %v before a byte came\n%s", late, out)
					}
				})
			}
		}
	}
}

func cableMain(how, phase, duration string) int {
	late, err := cableOut(how, phase, duration)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(late)
	return 0
}

func cableOut(how, phase, duration string) (late time.Duration, err error) {
	ip := func(words string) error {
		a := strings.Fields(words)
		out, err := exec.Command(a[0], a[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", words, err, out)
		}
		return nil
	}
	cut, mend := "tc qdisc replace dev lo root blackhole", "tc qdisc del dev lo root"
	if how == "down" {
		cut, mend = "ip link set lo down", "ip link set lo up"
	}
	if err := ip("ip link set lo up"); err != nil {
		return 0, err
	}
	d, err := time.ParseDuration(duration)
	if err != nil {
		return 0, err
	}
	data := testFile(4 << 20)
	s := faultserver.New(data)
	if err := s.Start(); err != nil {
		return 0, err
	}
	defer s.Stop()
	f, err := newFetcher(s.URL("pack.bpk"), &network{log: NewLog(os.Stdout, slog.LevelDebug)})
	if err != nil {
		return 0, err
	}
	defer f.close()
	f.setInUse()
	ctx, cancel := context.WithTimeout(context.Background(), d+time.Minute)
	defer cancel()
	if phase != "connecting" { // a connection is there
		if _, err := f.bytes(ctx, 0, 1000); err != nil {
			return 0, err
		}
	}
	var got []byte
	var back, next atomic.Int64 // when the network was back, and the next byte after that
	began := make(chan struct{}, 1)
	done := make(chan error, 1)
	read := func() {
		done <- f.stream(ctx, 0, int64(len(data)), func(b []byte) {
			got = append(got, b...)
			if back.Load() != 0 {
				next.CompareAndSwap(0, time.Now().UnixNano())
			}
			select {
			case began <- struct{}{}:
			default:
			}
		})
	}
	switch phase {
	case "in body":
		s.Script(faultserver.First(2, faultserver.Slow(1<<20)))
		go read()
		<-began
	case "before head":
		n := len(s.Requests())
		s.Script(faultserver.First(1, faultserver.Delay(500*time.Millisecond)))
		go read()
		s.Wait(n+1, testWait)
	}
	if err := ip(cut); err != nil {
		return 0, err
	}
	if phase == "connecting" || phase == "idle connection" {
		go read()
	}
	time.Sleep(d) // the length of the outage is what is tested
	if err := ip(mend); err != nil {
		return 0, err
	}
	begin := time.Now()
	back.Store(begin.UnixNano())
	if err := <-done; err != nil {
		return 0, err
	}
	if !bytes.Equal(got, data) {
		return 0, fmt.Errorf("%d bytes, which are not the file's", len(got))
	}
	return time.Unix(0, next.Load()).Sub(begin), nil
}
