package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
)

// Powerdown presses the power button: a guest with logind or acpid shuts down.
func (v *VM) Powerdown(ctx context.Context) error { return v.qmp.run(ctx, "system_powerdown", nil) }

// SetLink plugs the network cable in or out.
func (v *VM) SetLink(ctx context.Context, up bool) error {
	return v.qmp.run(ctx, "set_link", map[string]any{"name": netCard, "up": up})
}

// Pause stops the guest's processors.
func (v *VM) Pause(ctx context.Context) error { return v.qmp.run(ctx, "stop", nil) }

// Resume lets a paused guest run on.
func (v *VM) Resume(ctx context.Context) error { return v.qmp.run(ctx, "cont", nil) }

// Quit ends the machine at once; disks are flushed.
func (v *VM) Quit(ctx context.Context) error { return v.qmp.run(ctx, "quit", nil) }

// QMP runs any command of QEMU's machine protocol that returns nothing of interest.
func (v *VM) QMP(ctx context.Context, command string, arguments map[string]any) error {
	return v.qmp.run(ctx, command, arguments)
}

// A qmp is a connection to QEMU's monitor. A nil one has nothing to close and knows no end.
type qmp struct {
	conn  net.Conn
	runMu sync.Mutex    // one command at a time; guards count
	count int           // id of the last command; 0 is the greeting's
	done  chan struct{} // closed at the end of the connection

	mu       sync.Mutex
	answers  map[int]chan qmpAnswer // of commands that are waited for
	shutdown End                    // reason of the SHUTDOWN event
}

// A qmpAnswer is any message of QEMU.
type qmpAnswer struct {
	ID     int             `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Desc string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
	Data  struct {
		Reason End `json:"reason"`
	} `json:"data"`
}

// newQMP takes a new connection of QEMU's and returns when commands can be given.
func newQMP(ctx context.Context, conn net.Conn) (*qmp, error) {
	q := &qmp{conn: conn, done: make(chan struct{}), answers: map[int]chan qmpAnswer{}}
	go q.read()
	return q, q.run(ctx, "qmp_capabilities", nil)
}

// read takes events, and hands on answers. The greeting is an answer that nobody waits for.
func (q *qmp) read() {
	defer close(q.done)
	for d := json.NewDecoder(q.conn); ; {
		var a qmpAnswer
		if d.Decode(&a) != nil {
			return
		}
		q.mu.Lock()
		switch answer := q.answers[a.ID]; {
		case a.Event == "SHUTDOWN":
			q.shutdown = a.Data.Reason
		case a.Event == "" && answer != nil:
			answer <- a // has room for it
			delete(q.answers, a.ID)
		}
		q.mu.Unlock()
	}
}

func (q *qmp) run(ctx context.Context, command string, arguments map[string]any) error {
	q.runMu.Lock()
	defer q.runMu.Unlock()
	q.count++
	m := map[string]any{"execute": command, "id": q.count}
	if arguments != nil {
		m["arguments"] = arguments
	}
	answer := make(chan qmpAnswer, 1)
	q.mu.Lock()
	q.answers[q.count] = answer
	q.mu.Unlock()
	err := json.NewEncoder(q.conn).Encode(m)
	if err == nil {
		select {
		case a := <-answer:
			if a.Error != nil {
				err = errors.New(a.Error.Desc)
			}
		case <-q.done:
			err = ErrEnded
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	if err != nil {
		return fmt.Errorf("QEMU's %s: %w", command, err)
	}
	return nil
}

// end is how the guest ended. The process has ended, so that the connection ends, too.
func (q *qmp) end() End {
	if q == nil {
		return ""
	}
	<-q.done
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.shutdown
}

func (q *qmp) close() {
	if q != nil {
		q.conn.Close()
		<-q.done
	}
}
