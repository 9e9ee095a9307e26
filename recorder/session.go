package recorder

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"bootprof/profiles"
)

// errDuration ends the context of a Run whose time is over.
var errDuration = errors.New("the recording's time is over")

// runSession calls Options.Run, and returns when it has. The mark "end" is set then, not before: unlike a command, Run
// decides by itself when what it boots is over.
func (o *Options) runSession(ctx context.Context, st *stage, log *readLog) result {
	var mu sync.Mutex
	res := result{marks: []profiles.Mark{{At: 0, Name: "start"}}}
	s := Session{Image: st.image, Pages: log.pages}
	s.Mark = func(name string) {
		mu.Lock()
		defer mu.Unlock()
		res.marks = append(res.marks, profiles.Mark{At: log.now(), Name: name})
	}
	runCtx := ctx
	if o.Duration > 0 {
		var cancel context.CancelFunc
		runCtx, cancel = context.WithTimeoutCause(ctx, o.Duration, errDuration)
		defer cancel()
	}
	log.begin()
	end, err := o.Run(runCtx, s)
	s.Mark("end")

	mu.Lock()
	defer mu.Unlock()
	res.end, res.err = end, err
	res.endAt = res.marks[len(res.marks)-1].At
	switch {
	case err != nil && ctx.Err() != nil:
		res.end, res.err = "interrupted", fmt.Errorf("recording was interrupted: %w", context.Cause(ctx))
	case err != nil && runCtx.Err() != nil:
		res.end = "duration"
	}
	return res
}
