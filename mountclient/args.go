package mountclient

import (
	"errors"
	"fmt"
	"strings"
)

// CheckArgs refuses arguments of a mount command that mean nothing, before anything is done. memoryMiB is what
// MemoryBytes comes from.
func CheckArgs(url, dir string, o MountOptions, memoryMiB int) error {
	switch {
	case !strings.Contains(url, "://") && strings.Contains(dir, "://"):
		return fmt.Errorf("want URL and DIR in this order, got %q and %q", url, dir)
	case checkURLs(url) != nil:
		return checkURLs(url)
	case memoryMiB < 1:
		return fmt.Errorf("--memory %d: want 1 MiB or more", memoryMiB)
	case o.Root && strings.Contains(url, "file://"):
		return errors.New("--root: want http or https: after the change of the root no file can be opened")
	case o.FillRate > 0 && o.CacheDir == "":
		return errors.New("--fill: it fills the cache, want --cache too")
	case o.CacheBytes > 0 && o.CacheDir == "":
		return errors.New("--cache-size: it bounds the cache, want --cache too")
	case o.Record && o.FillRate > 0:
		return errors.New("--record sees what is read through the client: it does not go with --fill")
	case o.StartTimeout < 0 || o.Timeout < 0:
		return errors.New("--timeout and --start-timeout: want 0 or more")
	case o.KeyFile != "" && o.CertFile == "":
		return errors.New("--key is of no use without --cert")
	}
	if o.Proxy != "" {
		_, err := parseProxy(o.Proxy)
		return err
	}
	return nil
}

func checkURLs(list string) error {
	for _, url := range SplitURLs(list) {
		if !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") && !strings.HasPrefix(url, "file:///") {
			return fmt.Errorf("URL %q: want http://HOST/PATH, https://HOST/PATH or file:///PATH", url)
		}
	}
	return nil
}
