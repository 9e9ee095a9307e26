package faultserver

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"time"
)

// wireTimeout bounds how long an answer on the bare connection waits for a client that does not read it.
const wireTimeout = 10 * time.Second

// sendWire takes the connection from the server and has a.Wire answer on it.
func sendWire(w http.ResponseWriter, a *Answer) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(wireTimeout))
	_ = a.Wire(c) // a client that goes away is no concern of the server
}

// reset makes the closing of c an RST.
func reset(c net.Conn) error {
	if tcp, ok := c.(*net.TCPConn); ok {
		return tcp.SetLinger(0)
	}
	return nil
}

// head writes the status line and the header of a, in the version of HTTP, without a length.
func (a *Answer) head(proto string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %d %s\r\n", proto, a.Status, http.StatusText(a.Status))
	_ = a.Header.Write(&b)
	b.WriteString("\r\n")
	return b.Bytes()
}

// Reset takes the request and answers with an RST.
func Reset() *Fault {
	return fault("reset", func(_ *Request, a *Answer, _ []byte) { a.Wire = reset })
}

// ResetAfter sends an RST after the answer's head and n bytes of the body.
func ResetAfter(n int) *Fault {
	return fault("reset after head", func(_ *Request, a *Answer, _ []byte) {
		a.Header.Set("Content-Length", fmt.Sprint(len(a.Body)))
		a.Wire = func(c net.Conn) error {
			if _, err := c.Write(append(a.head("HTTP/1.1"), a.Body[:min(n, len(a.Body))]...)); err != nil {
				return err
			}
			return reset(c)
		}
	})
}

// HTTP10 answers as a server of HTTP/1.0 does: without a length, the end of the connection ends the body.
func HTTP10() *Fault {
	return fault("HTTP/1.0", func(_ *Request, a *Answer, _ []byte) {
		a.Wire = func(c net.Conn) error {
			if _, err := c.Write(a.head("HTTP/1.0")); err != nil {
				return err
			}
			_, err := c.Write(a.Body)
			return err
		}
	})
}

// Raw sends text in place of an answer.
func Raw(text string) *Fault {
	return fault("raw", func(_ *Request, a *Answer, _ []byte) {
		a.Wire = func(c net.Conn) error {
			_, err := c.Write([]byte(text))
			return err
		}
	})
}
