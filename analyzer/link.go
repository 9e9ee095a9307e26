package analyzer

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Limits of what ParseLink takes; beyond them lies a slip of the keyboard.
const (
	maxBitsPerSecond = 1e15
	maxRTT           = time.Hour
)

// A Link is a network path between the server and the machine that boots. The zero value is not usable:
// a link has a bandwidth.
type Link struct {
	BitsPerSecond float64       // B, > 0
	RTT           time.Duration // R, round trip; 0 is a link without delay
	ServerTime    time.Duration // t_s, what the server takes from a request to its first byte; default 0
}

// ParseLink reads "100mbit/20ms": bandwidth in kbit, mbit or gbit (per second), round trip in us, ms or s.
// Fractions are allowed, exponents and signs are not.
func ParseLink(s string) (Link, error) {
	rate, delay, ok := strings.Cut(s, "/")
	if !ok {
		return Link{}, fmt.Errorf("link %q has no round trip: write it like 100mbit/20ms", s)
	}
	bps, err := parseUnit(rate, "bandwidth", []unit{{"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}})
	if err != nil {
		return Link{}, fmt.Errorf("link %q: %w", s, err)
	}
	if bps <= 0 || bps > maxBitsPerSecond {
		return Link{}, fmt.Errorf("link %q: bandwidth %q is out of range: it must be above 0 and at most 1000000gbit", s, rate)
	}
	ns, err := parseUnit(delay, "round trip", []unit{{"us", 1e3}, {"ms", 1e6}, {"s", 1e9}})
	if err != nil {
		return Link{}, fmt.Errorf("link %q: %w", s, err)
	}
	if ns > float64(maxRTT) {
		return Link{}, fmt.Errorf("link %q: round trip %q is out of range: it must be at most 3600s", s, delay)
	}
	return Link{BitsPerSecond: bps, RTT: time.Duration(math.Round(ns))}, nil
}

type unit struct {
	name  string
	scale float64
}

// parseUnit reads a number with one of the units; what names it in errors. Units are tried in order, so
// "s" comes after "us" and "ms".
func parseUnit(s, what string, units []unit) (float64, error) {
	t := strings.ToLower(strings.TrimSpace(s))
	names := make([]string, len(units))
	for i, u := range units {
		names[i] = u.name
		digits, ok := strings.CutSuffix(t, u.name)
		if !ok {
			continue
		}
		if digits == "" || strings.Trim(digits, "0123456789.") != "" {
			return 0, fmt.Errorf("%s %q is not a number with a unit", what, s)
		}
		v, err := strconv.ParseFloat(digits, 64)
		if err != nil {
			return 0, fmt.Errorf("%s %q is not a number with a unit", what, s)
		}
		return v * u.scale, nil
	}
	return 0, fmt.Errorf("%s %q has none of the units %s", what, s, strings.Join(names, ", "))
}

// String returns the link as ParseLink reads it; the server time is not part of it.
func (l Link) String() string {
	rate := scaled(l.BitsPerSecond, []unit{{"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}})
	// Below a tenth of a millisecond "0.05ms" is harder to read than "50us".
	delay := scaled(float64(l.RTT), []unit{{"s", 1e9}, {"ms", 1e5}, {"us", 1e3}})
	if ns := float64(l.RTT); ns >= 1e5 && ns < 1e9 || ns == 0 {
		delay = strconv.FormatFloat(ns/1e6, 'f', -1, 64) + "ms"
	}
	return rate + "/" + delay
}

// scaled writes v in the first unit it fills, else in the last.
func scaled(v float64, units []unit) string {
	u := units[len(units)-1]
	for _, c := range units {
		if v >= c.scale {
			u = c
			break
		}
	}
	return strconv.FormatFloat(v/u.scale, 'f', -1, 64) + u.name
}

// check tells whether l can be calculated with.
func (l Link) check() error {
	switch {
	case !(l.BitsPerSecond > 0) || math.IsInf(l.BitsPerSecond, 0):
		return fmt.Errorf("link bandwidth %g bit/s is not above 0", l.BitsPerSecond)
	case l.RTT < 0:
		return fmt.Errorf("link round trip %v is negative", l.RTT)
	case l.ServerTime < 0:
		return fmt.Errorf("link server time %v is negative", l.ServerTime)
	}
	return nil
}

// bytesPerSecond returns B in bytes.
func (l Link) bytesPerSecond() float64 { return l.BitsPerSecond / 8 }

// firstByte returns R + t_s in seconds: from sending a request to the first byte of its answer.
func (l Link) firstByte() float64 { return l.RTT.Seconds() + l.ServerTime.Seconds() }
