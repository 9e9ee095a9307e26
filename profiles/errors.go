package profiles

import (
	"errors"
	"fmt"
)

// ErrNotProfile means that the bytes do not begin as a profile does: another kind of file.
var ErrNotProfile = errors.New("not a bootprof profile")

// ErrCorrupt means a profile that was cut short, altered, or written against the rules of the format.
var ErrCorrupt = errors.New("profile is damaged")

// A VersionError means an intact profile that needs a newer reader.
type VersionError struct {
	Major, Minor int    // of the profile
	Feature      string // what of a known major version is not known here; "" if the major version itself
}

func (e *VersionError) Error() string {
	if e.Feature != "" {
		return fmt.Sprintf("profile format %d.%d uses %s, which this bootprof does not know: update bootprof", e.Major, e.Minor, e.Feature)
	}
	return fmt.Sprintf("profile format %d: this bootprof reads up to %d: update bootprof", e.Major, Major)
}

// corrupt is an ErrCorrupt that says what is wrong.
func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}
