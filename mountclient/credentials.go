package mountclient

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const maxCredentials = 64 << 10 // bytes of the file

// credentials are what a file says that a server wants to hear. Its directory stays open, since the path may lead
// elsewhere after switch_root; below /run it can be renewed at any time, best by rename. Safe for concurrent use.
type credentials struct {
	path string
	dir  *os.File
	log  *slog.Logger

	mu     sync.Mutex
	value  string // of the header Authorization
	warned bool
}

func openCredentials(path string, log *slog.Logger) (*credentials, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, &AccessError{"--credentials", path, why(err)}
	}
	c := &credentials{path: path, dir: dir, log: log}
	if c.value, err = c.read(); err != nil {
		dir.Close()
		return nil, &AccessError{"--credentials", path, why(err)}
	}
	return c, nil
}

func (c *credentials) read() (string, error) {
	f, err := openIn(c.dir, filepath.Base(c.path), unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return "", errors.Unwrap(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", errors.New("not a regular file")
	}
	if info.Mode().Perm()&0o044 != 0 && !c.warned {
		c.warned = true
		c.log.Warn("the file with the credentials can be read by others: chmod 600", "file", c.path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxCredentials+1))
	if err != nil {
		return "", err
	}
	return parseCredentials(b)
}

// parseCredentials returns the value of the header Authorization. Its errors do not show what the file holds.
func parseCredentials(b []byte) (string, error) {
	line := string(bytes.TrimSpace(b))
	bad := errors.New("want one line, user:password or Bearer TOKEN")
	if len(b) > maxCredentials || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", bad
	}
	if scheme, token, ok := strings.Cut(line, " "); ok && strings.EqualFold(scheme, "Bearer") {
		if token = strings.TrimSpace(token); token == "" || strings.Contains(token, " ") {
			return "", bad
		}
		return "Bearer " + token, nil
	}
	if !strings.Contains(line, ":") {
		return "", bad
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(line)), nil
}

func (c *credentials) header() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.value
}

// renewed reads the file again after the server refused used, and tells whether it says something else now.
func (c *credentials) renewed(used string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, err := c.read()
	switch {
	case err != nil:
		c.log.Debug("credentials are not renewed", "file", c.path, "error", err)
	case v != c.value:
		c.value = v
		c.log.Info("credentials renewed", "file", c.path)
	}
	return c.value != used
}

// why is an error without the operation and the path, for a message that names them.
func why(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return err.Error()
}
