package mountclient

import (
	"fmt"
	"time"
)

// A MirrorStatus is what was seen of a server.
type MirrorStatus struct {
	Name           string  `json:"name"`          // scheme and host
	State          string  `json:"state"`         // "used", "resting" after a fault, "dropped"
	Why            string  `json:"why,omitempty"` // it was dropped
	Requests       int64   `json:"requests"`
	Bytes          int64   `json:"bytes"` // of bodies received
	Faults         int64   `json:"faults"`
	Throughput     float64 `json:"throughput"`      // bytes per second while bodies come, smoothed; 0: not known
	LatencySeconds float64 `json:"latency_seconds"` // from a request to its first byte, smoothed; 0: not known
}

func (m *mirror) status(now time.Time) MirrorStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := MirrorStatus{Name: m.name, State: "used", Why: m.dropped, Requests: m.requests, Bytes: m.bytes, Faults: m.faults,
		Throughput: m.rate, LatencySeconds: m.latency.Seconds()}
	switch {
	case m.dropped != "":
		s.State = "dropped"
	case now.Before(m.rests):
		s.State = "resting"
	}
	return s
}

// mirrorStatus returns the status of every server, each under a name of its own.
func (f *fetcher) mirrorStatus() (out []MirrorStatus) {
	sources := f.mirrors
	if len(sources) == 0 {
		sources = []*httpSource{f.src}
	}
	now := time.Now()
	same := make(map[string]int)
	for _, s := range sources {
		st := s.mirror.status(now)
		if same[st.Name]++; same[st.Name] > 1 {
			st.Name = fmt.Sprintf("%s (%d)", st.Name, same[st.Name])
		}
		out = append(out, st)
	}
	return out
}
