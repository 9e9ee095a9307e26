package recorder

import (
	"bufio"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"bootprof/internal/loopdev"
)

// loopPollMin and loopPollMax bound the pause between two looks for new loop devices: short after the
// image was opened, longer and longer after that.
const (
	loopPollMin = time.Millisecond
	loopPollMax = 100 * time.Millisecond
)

// A loopWatch sets the readahead of loop devices that others attach to the recording image to 0. It runs in a
// goroutine of its own, never in one that answers a READ: writing the readahead may wait for the READs under
// way.
type loopWatch struct {
	root   string // loop devices over files below it are meant
	logger *slog.Logger
	kicks  chan struct{}
	done   chan struct{}
	wg     sync.WaitGroup
	once   sync.Once
}

func newLoopWatch(root string, logger *slog.Logger) *loopWatch {
	w := &loopWatch{root: root, logger: logger, kicks: make(chan struct{}, 1), done: make(chan struct{})}
	w.wg.Go(w.loop)
	return w
}

// kick says that the image was opened: a loop device may follow. It never waits.
func (w *loopWatch) kick() {
	select {
	case w.kicks <- struct{}{}:
	default:
	}
}

// stop ends the goroutine and waits for it. It may be called again.
func (w *loopWatch) stop() {
	w.once.Do(func() { close(w.done) })
	w.wg.Wait()
}

func (w *loopWatch) loop() {
	// Nothing can be attached before the first open.
	select {
	case <-w.kicks:
	case <-w.done:
		return
	}
	for pause := loopPollMin; ; pause = min(loopPollMax, pause+pause/16) {
		select {
		case <-w.kicks:
			pause = loopPollMin
		case <-w.done:
			return
		case <-time.After(pause):
		}
		nums, err := loopsOver(w.root)
		if err != nil {
			w.logger.Warn("looking for loop devices of the command", "err", err)
			return
		}
		for _, n := range nums {
			if kb, err := loopdev.Readahead(n); err != nil || kb == 0 {
				continue
			}
			if err := loopdev.SetReadahead(n, 0); err != nil {
				w.logger.Warn("a loop device of the command", "loop", n, "err", err)
			}
		}
	}
}

// loopsOver returns the loop devices whose file lies below dir, ascending.
func loopsOver(dir string) ([]int, error) {
	files, err := loopdev.BackingFiles()
	if err != nil {
		return nil, err
	}
	var out []int
	for n, p := range files {
		if under(p, dir) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

// loopMajor is the device number of loop devices in the kernel's documentation.
const loopMajor = 7

// mountsOf returns where a loop device is mounted in this mount namespace, the latest mount first.
func mountsOf(loop int) []string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []string
	for s := bufio.NewScanner(f); s.Scan(); {
		// "36 35 7:3 / /mnt ro - erofs /dev/loop3 ro": device in the third field, mount point in the fifth.
		fields := strings.Fields(s.Text())
		if len(fields) > 4 && fields[2] == fmt.Sprintf("%d:%d", loopMajor, loop) {
			out = append(out, unescapeMount(fields[4]))
		}
	}
	slices.Reverse(out)
	return out
}

// unescapeMount undoes the kernel's octal escapes of blanks and backslashes.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
