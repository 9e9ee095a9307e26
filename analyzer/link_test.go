package analyzer

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestParseLink(t *testing.T) {
	for _, c := range []struct {
		in   string
		bps  float64
		rtt  time.Duration
		text string
	}{
		{"100mbit/20ms", 100e6, 20 * time.Millisecond, "100mbit/20ms"},
		{"1gbit/0.5ms", 1e9, 500 * time.Microsecond, "1gbit/0.5ms"},
		{"1gbit/500us", 1e9, 500 * time.Microsecond, "1gbit/0.5ms"},
		{"56kbit/1.5s", 56e3, 1500 * time.Millisecond, "56kbit/1.5s"},
		{"2.5GBIT/50us", 2.5e9, 50 * time.Microsecond, "2.5gbit/50us"},
		{" 20mbit / 0ms ", 20e6, 0, "20mbit/0ms"},
		{"0.5kbit/1s", 500, time.Second, "0.5kbit/1s"},
		{"1500mbit/2000ms", 1.5e9, 2 * time.Second, "1.5gbit/2s"},
	} {
		l, err := ParseLink(c.in)
		if err != nil {
			t.Errorf("%q: %v", c.in, err)
			continue
		}
		if want := (Link{BitsPerSecond: c.bps, RTT: c.rtt}); l != want {
			t.Errorf("%q: got %+v, want %+v", c.in, l, want)
		}
		if l.String() != c.text {
			t.Errorf("%q: prints as %q, want %q", c.in, l, c.text)
		}
	}
}

func TestParseLinkErrors(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", "no round trip"},
		{"100mbit", "no round trip"},
		{"100/20ms", "bandwidth \"100\" has none of the units kbit, mbit, gbit"},
		{"100mbit/20", "round trip \"20\" has none of the units us, ms, s"},
		{"mbit/20ms", "not a number"},
		{"1e3mbit/20ms", "not a number"},
		{"-1mbit/20ms", "not a number"},
		{"1.2.3mbit/20ms", "not a number"},
		{"100mbit/-20ms", "not a number"},
		{"nanmbit/20ms", "not a number"},
		{"0mbit/20ms", "out of range"},
		{"100000000gbit/20ms", "out of range"},
		{"1mbit/2000000s", "out of range"},
		{"100mbit/20ms/3", "none of the units"},
		{strings.Repeat("9", 400) + "gbit/1ms", "not a number"},
	} {
		l, err := ParseLink(c.in)
		if err == nil {
			t.Errorf("%q: taken as %+v", c.in, l)
			continue
		}
		if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: error %q, want one line with %q", c.in, err, c.want)
		}
	}
}

// Reports print links; what they print is to be typed again.
func TestLinkStringParses(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 10000 {
		l := Link{BitsPerSecond: float64(rnd.Int64N(1e11) + 1), RTT: time.Duration(rnd.Int64N(1 << rnd.IntN(41)))}
		got, err := ParseLink(l.String())
		if err != nil {
			t.Fatalf("%+v prints as %q: %v", l, l, err)
		}
		if d := got.BitsPerSecond/l.BitsPerSecond - 1; got.RTT != l.RTT || d > 1e-12 || d < -1e-12 {
			t.Fatalf("%+v prints as %q, which reads as %+v", l, l, got)
		}
	}
}

func FuzzParseLink(f *testing.F) {
	for _, s := range []string{"100mbit/20ms", "1gbit/0.5ms", "x/y", "/", "1kbit/1us"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLink(s)
		if err == nil && l.check() != nil {
			t.Errorf("%q gives the link %+v: %v", s, l, l.check())
		}
	})
}
