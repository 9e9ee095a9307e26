package mountclient

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

// Outages of the network itself, in a network namespace of their own: what is sent is lost, and TCP is the kernel's.
//
//   - lost: packets vanish (a qdisc that drops all), as with a cable out behind the next switch.
//   - down: the interface is down; connections stay, new ones are refused at once.

const roleCable = "cable" // cableMain: HOW PHASE DURATION; fails if the next byte comes late

func TestCableOut(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	testrig.NeedRoot(t)
	testrig.NeedProgram(t, "tc", "ip")
	var all sync.WaitGroup // they mostly wait: all at once
	for _, how := range []string{"lost", "down"} {
		for _, phase := range []string{"connecting", "idle connection", "before head", "in body"} {
			for _, d := range []string{"2500ms", "8s"} {
				all.Go(func() {
					cmd, out := role(roleCable, how, phase, d)
					cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNET
					if err := cmd.Run(); err != nil {
						t.Errorf("%s, %s, %s: %v\n%s", how, phase, d, err, out)
						return
					}
					said := strings.Split(strings.TrimSpace(out.String()), "\n")
					t.Logf("%s, %s, %s: %s", how, phase, d, said[len(said)-1])
				})
			}
		}
	}
	all.Wait()
}

func cableMain(how, phase, duration string) int {
	late := newLateness()
	d, err := time.ParseDuration(duration)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	took, back, err := cableOut(how, phase, d, late)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	bound := back.bound(resumeWithin + late.waits(d, 0))
	fmt.Printf("a byte came %v after the network was back, bound %v\n", took, bound)
	if took > bound {
		return 1
	}
	return 0
}

// cableOut cuts the network of this process and mends it. It returns when the network was back, and how late the next
// byte came.
func cableOut(how, phase string, d time.Duration, late *lateness) (took time.Duration, back outageEnd, err error) {
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
		return 0, back, err
	}
	data := testFile(4 << 20)
	s := faultserver.New(data)
	if err := s.Start(); err != nil {
		return 0, back, err
	}
	defer s.Stop()
	f, err := newFetcher(s.URL("pack.bpk"), &network{log: NewLog(os.Stdout, slog.LevelDebug)})
	if err != nil {
		return 0, back, err
	}
	defer f.close()
	f.setInUse()
	ctx, cancel := context.WithTimeout(context.Background(), d+testrig.Patience)
	defer cancel()
	if phase != "connecting" { // a connection is there
		if _, err := f.bytes(ctx, 0, 1000); err != nil {
			return 0, back, err
		}
	}
	var got []byte
	var isBack atomic.Bool // the network is
	var next moment        // when a byte came after that
	began := make(chan struct{}, 1)
	done := make(chan error, 1)
	read := func() {
		done <- f.stream(ctx, 0, int64(len(data)), func(b []byte) {
			got = append(got, b...)
			if isBack.Load() && next.get().IsZero() {
				next.set(time.Now())
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
		s.Wait(n+1, testrig.Patience)
	}
	if err := ip(cut); err != nil {
		return 0, back, err
	}
	if phase == "connecting" || phase == "idle connection" {
		go read()
	}
	time.Sleep(d) // the length of the outage is what is tested
	if err := ip(mend); err != nil {
		return 0, back, err
	}
	back = late.outageEnds()
	isBack.Store(true)
	if err := <-done; err != nil {
		return 0, back, err
	}
	if !bytes.Equal(got, data) {
		return 0, back, fmt.Errorf("%d bytes, which are not the file's", len(got))
	}
	return next.get().Sub(back.at), back, nil
}
