package mountclient

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// NewLog returns a logger that writes one line per record, "bootprof: message key=value ...", for a console
// or the kernel's log. Safe for concurrent use.
func NewLog(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(&lineHandler{w: w, level: level, mu: new(sync.Mutex)})
}

type lineHandler struct {
	mu    *sync.Mutex
	w     io.Writer
	level slog.Level
	attrs string
}

func (h *lineHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString("bootprof: ")
	b.WriteString(r.Message)
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		b.WriteString(formatAttr(a))
		return true
	})
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.w, b.String())
	return err
}

func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	for _, a := range attrs {
		n.attrs += formatAttr(a)
	}
	return &n
}

// WithGroup is of no use on a console.
func (h *lineHandler) WithGroup(string) slog.Handler { return h }

func formatAttr(a slog.Attr) string {
	v := strings.Join(strings.Fields(a.Value.String()), " ")
	if a.Key == "error" {
		return ": " + v
	}
	if strings.Contains(v, " ") {
		v = fmt.Sprintf("%q", v)
	}
	return " " + a.Key + "=" + v
}
