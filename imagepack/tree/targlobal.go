package tree

import (
	"archive/tar"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// paxGlobals are the records of an archive's global headers: they hold for all entries that follow and have no such
// record of their own, as GNU tar takes them. Programs write comments there (git archive the commit), and users
// owners and times (tar --pax-option=uid=0). Others than these are passed over.
type paxGlobals map[string]string

// add takes in the records of one more global header. An empty value takes a record back.
func (g paxGlobals) add(records map[string]string) error {
	for key, value := range records {
		switch key {
		case "path", "linkpath", "size":
			return fmt.Errorf("a global header sets %s=%.100q for all entries: not supported", key, value)
		}
		switch key {
		case "uid", "gid", "mtime": // archives may hold any number of others
			g[key] = value
		}
	}
	return nil
}

// apply gives an entry's header what the global ones say of it.
func (g paxGlobals) apply(h *tar.Header) error {
	for key, value := range g {
		if _, own := h.PAXRecords[key]; own || value == "" {
			continue
		}
		switch key {
		case "uid", "gid":
			id, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				return fmt.Errorf("a global header sets %s=%.100q: want a number", key, value)
			}
			if key == "uid" {
				h.Uid = int(id)
			} else {
				h.Gid = int(id)
			}
		case "mtime":
			t, err := parsePAXTime(value)
			if err != nil {
				return err
			}
			h.ModTime = t
		}
	}
	return nil
}

// parsePAXTime reads a time as PAX records have it: decimal seconds since 1970, with a sign and a fraction.
func parsePAXTime(s string) (time.Time, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	nsec, ferr := strconv.ParseUint((fraction + "000000000")[:9], 10, 32)
	if err != nil || ferr != nil {
		return time.Time{}, fmt.Errorf("a global header sets mtime=%.100q: want seconds", s)
	}
	if strings.HasPrefix(whole, "-") {
		return time.Unix(sec, -int64(nsec)), nil
	}
	return time.Unix(sec, int64(nsec)), nil
}
