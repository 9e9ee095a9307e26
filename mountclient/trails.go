package mountclient

import "sync"

// Tuning of the readahead for sequential readers, in chunks. The kernel's own readahead cannot do this: while
// booting it is off, and an EROFS mounted from a file keeps that for good.
const (
	maxTrails  = 8  // sequential readers that are told apart
	firstAhead = 2  // after the second miss in a row
	mostAhead  = 16 // 2 MiB of image

	usualChunkPages = 32 // what the pack writer makes; others are as good
)

// trails remembers where recent misses ended, to tell a reader that goes through a file from one that jumps.
// The zero value is ready. Safe for concurrent use.
type trails struct {
	mu   sync.Mutex
	list []trail // the one used last comes last
}

type trail struct {
	next  int64 // page behind the chunks that were missed
	ahead int   // chunks fetched ahead at the last miss
}

// follow notes a miss of the chunks [page, next) and returns how many chunks behind them to fetch as well. A
// reader that was helped misses next behind its help.
func (t *trails) follow(page, next int64) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for i, r := range t.list {
		if page >= r.next && page <= r.next+int64(r.ahead)*usualChunkPages {
			if n = min(2*r.ahead, mostAhead); r.ahead == 0 {
				n = firstAhead
			}
			t.list = append(t.list[:i], t.list[i+1:]...)
			break
		}
	}
	if len(t.list) == maxTrails {
		t.list = t.list[1:]
	}
	t.list = append(t.list, trail{next, n})
	return n
}
