package compare

import (
	"context"
	"fmt"
	"os"
	"time"
)

// Parts are what is measured besides the cells.
type Parts struct {
	Herd   *Herd   // nil: none
	Faults *Faults // nil: none
}

// A part is a line of the plan.
type part struct {
	name  string
	what  string
	takes time.Duration
}

func (p Parts) list() (parts []part) {
	if p.Herd != nil {
		parts = append(parts, p.Herd.plan())
	}
	if p.Faults != nil {
		parts = append(parts, p.Faults.plan())
	}
	return parts
}

func (p Parts) run(ctx context.Context, c Config, r *Comparison) {
	if p.Herd != nil {
		fmt.Fprintf(c.Progress, "== herd of %d\n", p.Herd.Clients)
		report := p.Herd.run(ctx, c)
		r.Herd = &report
	}
	if p.Faults != nil && ctx.Err() == nil {
		fmt.Fprintln(c.Progress, "== faults")
		r.Faults = p.Faults.run(ctx, c)
	}
}

// readable says whether a file is there and not empty.
func readable(name string) (int64, error) {
	info, err := os.Stat(name)
	if err != nil {
		return 0, err
	}
	if info.Size() == 0 {
		return 0, fmt.Errorf("%s is empty", name)
	}
	return info.Size(), nil
}

// StandardParts are the herd, of so many clients (0: none), and, if wanted, the faults. The quick ones leave faults out.
func StandardParts(dir string, quick bool, herd int, faults bool) (p Parts) {
	debian := Images{"debian", dir}
	if herd > 0 {
		p.Herd = &Herd{Images: debian, Clients: herd}
	}
	if faults && !quick {
		p.Faults = &Faults{Images: debian}
	}
	return p
}
