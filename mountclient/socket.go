package mountclient

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Limits of the status socket.
const (
	socketPeers    = 16                     // answered at the same time; others wait
	quietTime      = 200 * time.Millisecond // a peer that sends nothing for so long gets the bare JSON
	answerTime     = 5 * time.Second        // of a whole answer
	socketPatience = 2 * time.Second        // of one who asks
)

// answerAll answers the connections that come to l, until ctx ends. get returns the body of a path, nil if there is
// no such thing.
func (m *Mounted) answerAll(ctx context.Context, l net.Listener, get func(path string) (body []byte, kind string)) {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	free := make(chan struct{}, socketPeers)
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			conn.Close()
			return
		}
		m.parts.Go(func() {
			defer func() { <-free }()
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			m.survived("an answer of the status socket", func() { answer(conn, get) })
		})
	}
}

// answer serves one connection: GET of a path by HTTP/1.0. A peer that sends anything else, or nothing, gets the bare
// body of /status.
func answer(conn net.Conn, get func(path string) (body []byte, kind string)) {
	_ = conn.SetWriteDeadline(time.Now().Add(answerTime))
	_ = conn.SetReadDeadline(time.Now().Add(quietTime))
	line, _ := bufio.NewReaderSize(conn, 4096).ReadSlice('\n')
	words := strings.Fields(string(line))
	if len(words) < 2 || words[0] != "GET" {
		body, _ := get("/status")
		_, _ = conn.Write(body)
		return
	}
	code := "200 OK"
	body, kind := get(words[1])
	if body == nil {
		body, kind, code = []byte("GET /status, /metrics or /misses\n"), "text/plain", "404 Not Found"
	}
	fmt.Fprintf(conn, "HTTP/1.0 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", code, kind, len(body))
	_, _ = conn.Write(body)
}

// page returns what the status socket has under a path.
func (m *Mounted) page(path string) (body []byte, kind string) {
	switch path {
	case "/status":
		s := m.Status()
		return asJSON(&s)
	case "/misses":
		return asJSON(m.Client.Misses())
	case "/metrics":
		s := m.Status()
		return s.Metrics(), "text/plain; version=0.0.4"
	}
	return nil, ""
}

func asJSON(v any) ([]byte, string) {
	body, err := json.Marshal(v)
	if err != nil {
		panic("BUG: the status has no JSON: " + err.Error())
	}
	return append(body, '\n'), "application/json"
}

// socketPath names the status socket of a process.
func socketPath(runDir string, pid int) string {
	if runDir == "" {
		runDir = DefaultRunDir
	}
	return filepath.Join(runDir, strconv.Itoa(pid)+".sock")
}

// nobody tells that no process listens at a socket: it was killed, or has ended.
func nobody(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist)
}

// ending tells that a client closed the connection while it was asked, which it does when it ends.
func ending(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// askSocket gets a page from the client behind a status socket.
func askSocket(path, page string, into any) error {
	conn, err := net.DialTimeout("unix", path, socketPatience)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(socketPatience + answerTime))
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.0\r\n\r\n", page); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s (%s)", page, resp.Status, bytes.TrimSpace(body))
	}
	return json.Unmarshal(body, into)
}
