package profiles

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

// FuzzRead feeds Read with the input as a file, and as the payload of a file whose checksum is right: what is
// read must be valid, and the same after it was written and read again.
func FuzzRead(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte(magic))
	for _, run := range []*Run{{}, exampleRun(), madeRun(1, 20)} {
		f.Add(mustWrite(f, run))
		payload, err := encodePayload(run)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		check := func(run *Run, err error) {
			if err != nil {
				var v *VersionError
				if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNotProfile) && !errors.As(err, &v) {
					t.Fatalf("untyped error: %v", err)
				}
				return
			}
			payload, err := encodePayload(run)
			if err != nil {
				t.Fatal(err)
			}
			again, err := decodePayload(payload, VersionError{Major: Major})
			if err != nil {
				t.Fatal(err)
			}
			if p, err := encodePayload(again); err != nil || !bytes.Equal(p, payload) || !reflect.DeepEqual(again.Header, run.Header) {
				t.Fatalf("read %+v, wrote it and read %+v, %v", run, again, err)
			}
		}
		check(Read(bytes.NewReader(data)))
		check(decodePayload(data, VersionError{Major: Major}))
	})
}
