package recorder

import "strings"

// lineErrors are several errors told in one line.
type lineErrors []error

func (e lineErrors) Error() string {
	var b strings.Builder
	for i, err := range e {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(err.Error())
	}
	return b.String()
}

func (e lineErrors) Unwrap() []error { return e }

// join is errors.Join for one line; a single error stays as it is.
func join(errs ...error) error {
	var out lineErrors
	for _, err := range errs {
		if err != nil {
			out = append(out, err)
		}
	}
	switch len(out) {
	case 0:
		return nil
	case 1:
		return out[0]
	}
	return out
}
