package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"bootprof/mountclient"
)

// The report of a boot names the files that the boot zone lacked. The client knows pages only; which files they are, the
// kernel tells (FIEMAP), as it has the file system mounted. That reads the metadata of the whole tree, and so is done when
// somebody asks.

// printReport tells how the boot at s.Dir went.
func (a *app) printReport(s *mountclient.Status) error {
	if s.Digest == "" || s.PID == 0 {
		return fmt.Errorf("%s is a plain image or has left its client: nothing is known of its misses", s.Dir)
	}
	m, err := mountclient.ReadMisses("", s.PID)
	if err != nil {
		return err
	}
	hot := "not yet"
	if s.HotSeconds > 0 {
		hot = fmt.Sprintf("after %.2f s", s.HotSeconds)
	}
	var missed int64
	for _, miss := range m.List {
		if !miss.Ahead {
			missed += miss.Pages
		}
	}
	fmt.Fprintf(a.stdout, "ready after %.2f s, all boot pages %s, readers waited %.2f s\n", s.ReadySeconds, hot, s.StalledSeconds)
	fmt.Fprintf(a.stdout, "coverage %.1f %%: %d boot pages, %d pages missed in %d chunks\n", 100*coverage(s.BootPages, missed), s.BootPages, missed, s.Misses)
	if len(m.List) == 0 {
		return nil
	}
	extents, err := fileExtents(s.Dir)
	if err != nil {
		return err
	}
	for _, miss := range m.List {
		why := ""
		if miss.Ahead {
			why = ", read ahead"
		}
		fmt.Fprintf(a.stdout, "%8.2f s  pages %d to %d%s  %s\n", time.Duration(miss.AfterNS).Seconds(), miss.Page, miss.Page+miss.Pages-1, why, extents.names(miss.Page*4096, miss.Pages*4096))
	}
	if m.Dropped > 0 {
		fmt.Fprintf(a.stdout, "%d later misses are not listed: the client keeps no more\n", m.Dropped)
	}
	return nil
}

// coverage is the part of the pages that were needed which the boot zone had.
func coverage(boot, missed int64) float64 {
	if boot+missed == 0 {
		return 1
	}
	return float64(boot) / float64(boot+missed)
}

// An extent is a piece of the image that a file lies in.
type extent struct {
	imageOff, lenBytes int64
	path               string
}

type extents []extent // by imageOff

// names returns the files in a range of the image, the first few of many.
func (x extents) names(imageOff, lenBytes int64) string {
	i := sort.Search(len(x), func(i int) bool { return x[i].imageOff+x[i].lenBytes > imageOff })
	out, last, more := "", "", 0
	for ; i < len(x) && x[i].imageOff < imageOff+lenBytes; i++ {
		switch {
		case x[i].path == last:
		case out == "":
			out, last = x[i].path, x[i].path
		default:
			last = x[i].path
			more++
		}
	}
	switch {
	case out == "":
		return "(metadata, or a file system that does not tell)"
	case more > 0:
		return fmt.Sprintf("%s and %d more", out, more)
	}
	return out
}

// fileExtents asks the kernel where in the image the files below dir lie. Files of which it does not tell are left out.
func fileExtents(dir string) (out extents, err error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, err
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			var sub unix.Stat_t
			if unix.Lstat(path, &sub) == nil && sub.Dev != st.Dev {
				return fs.SkipDir // another file system
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		found, err := extentsOf(path)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return fs.SkipAll
		}
		out = append(out, found...)
		return nil
	})
	sort.Slice(out, func(i, j int) bool { return out[i].imageOff < out[j].imageOff })
	return out, err
}

// See linux/fiemap.h.
const (
	fiemapIoctl      = 0xC020660B
	fiemapHeader     = 32
	fiemapExtentSize = 56
	fiemapMost       = 64
	fiemapLast       = 1
	fiemapUnknown    = 2
)

// extentsOf asks for the extents of one file.
func extentsOf(path string) (out []extent, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, fiemapHeader+fiemapMost*fiemapExtentSize)
	for start := uint64(0); ; {
		clear(buf[:fiemapHeader])
		binary.NativeEndian.PutUint64(buf, start)
		binary.NativeEndian.PutUint64(buf[8:], ^start)
		binary.NativeEndian.PutUint32(buf[24:], fiemapMost)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fiemapIoctl, uintptr(unsafe.Pointer(&buf[0])))
		runtime.KeepAlive(buf)
		if errno != 0 {
			return out, errno
		}
		n := binary.NativeEndian.Uint32(buf[20:])
		for i := range n {
			e := buf[fiemapHeader+i*fiemapExtentSize:]
			logical, physical, length := binary.NativeEndian.Uint64(e), binary.NativeEndian.Uint64(e[8:]), binary.NativeEndian.Uint64(e[16:])
			flags := binary.NativeEndian.Uint32(e[40:])
			if flags&fiemapUnknown == 0 && length > 0 {
				out = append(out, extent{int64(physical), int64(length), path})
			}
			if start = logical + length; flags&fiemapLast != 0 {
				return out, nil
			}
		}
		if n == 0 {
			return out, nil
		}
	}
}
