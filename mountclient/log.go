package mountclient

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
)

// NewLog returns a logger that writes one line per record, "bootprof: message key=value ...", for a console
// or the kernel's log. Safe for concurrent use.
func NewLog(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(&lineHandler{w: w, level: level, mu: new(sync.Mutex), kernel: new(atomic.Bool)})
}

// maxKernelLine is how long a line may be that the kernel's log takes (Linux takes 1024 bytes, prefix and all).
const maxKernelLine = 900

type lineHandler struct {
	mu     *sync.Mutex
	w      io.Writer
	level  slog.Level
	attrs  string
	kernel *atomic.Bool // w leads to the kernel's log
}

// toKernel says that what log writes to is the kernel's log from now on: lines get a priority and a bounded length. A
// warning is to be seen on the console of a machine that boots with "quiet", too, which hides KERN_WARNING.
func toKernel(log *slog.Logger) {
	if h, ok := log.Handler().(*lineHandler); ok {
		h.kernel.Store(true)
	}
}

func forKernel(line string, l slog.Level) string {
	if len(line) > maxKernelLine {
		line = strings.ToValidUTF8(line[:maxKernelLine], "") + "\n"
	}
	switch {
	case l >= slog.LevelWarn:
		return "<3>" + line
	case l >= slog.LevelInfo:
		return "<5>" + line
	}
	return "<7>" + line
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
	line := b.String()
	if h.kernel.Load() {
		line = forKernel(line, r.Level)
	}
	_, err := io.WriteString(h.w, line)
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
