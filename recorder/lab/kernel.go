package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"bootprof/imagepack/tree"
)

// ErrNoKernel means that an image has none where kernels lie.
var ErrNoKernel = errors.New("there is no kernel in the image (looked for vmlinuz, boot/vmlinuz*, live/vmlinuz*, casper/vmlinuz*, " +
	"lib/modules/*/vmlinuz): name one with --kernel")

// A Kernel is one to boot.
type Kernel struct {
	Path    string // where it was found
	Version string // uname -r; "" if it does not say
	Data    []byte
}

// FindKernel returns the kernel of an image: the one that /vmlinuz or /boot/vmlinuz names, else the newest. One whose modules
// are in the image goes before one whose modules are not.
func FindKernel(root *tree.Inode) (*Kernel, error) {
	var first *Kernel
	seen := map[string]bool{}
	for _, place := range kernelPlaces(root) {
		n, real := tree.Find(root, place)
		if n == nil || n.Type() != tree.ModeRegular || n.Size == 0 || seen[real] {
			continue
		}
		seen[real] = true
		b, err := n.ReadFile()
		if err != nil {
			return nil, fmt.Errorf("reading the kernel %s: %w", real, err)
		}
		k := &Kernel{real, KernelVersion(b), b}
		if dir, _ := tree.Find(root, "lib/modules/"+k.Version); dir != nil && k.Version != "" {
			return k, nil
		}
		if first == nil {
			first = k
		}
	}
	if first == nil {
		return nil, ErrNoKernel
	}
	return first, nil
}

// kernelPlaces are paths that may be kernels, best first.
func kernelPlaces(root *tree.Inode) []string {
	out := []string{"vmlinuz", "boot/vmlinuz"}
	for _, dir := range []string{"boot", "live", "casper"} {
		out = append(out, matching(root, dir, func(name string) string {
			if strings.HasPrefix(name, "vmlinuz") {
				return name
			}
			return ""
		})...)
	}
	return append(out, matching(root, "lib/modules", func(name string) string { return name + "/vmlinuz" })...)
}

// matching returns paths below a directory, made of the names in it; the newest version first.
func matching(root *tree.Inode, dir string, choose func(name string) string) (out []string) {
	n, _ := tree.Find(root, dir)
	if n == nil {
		return nil
	}
	for _, e := range n.Entries {
		if name := choose(e.Name); name != "" {
			out = append(out, path.Join(dir, name))
		}
	}
	slices.SortFunc(out, func(a, b string) int { return compareVersions(b, a) })
	return out
}

var digits = regexp.MustCompile(`[0-9]+`)

// compareVersions compares runs of digits as numbers: 6.9 is older than 6.10.
func compareVersions(a, b string) int {
	na, nb := digits.FindAllString(a, -1), digits.FindAllString(b, -1)
	for i := range min(len(na), len(nb)) {
		x, _ := strconv.Atoi(na[i])
		y, _ := strconv.Atoi(nb[i])
		if x != y {
			return x - y
		}
	}
	return strings.Compare(a, b)
}

// Fields of the setup header, from Documentation/arch/x86/boot.rst.
const (
	headerMagicOff   = 0x202
	headerMagic      = "HdrS"
	versionPtrOff    = 0x20e // uint16, from 0x200
	versionPtrFrom   = 0x200
	maxVersionLength = 256
)

// KernelVersion returns what a bzImage says that uname -r will say; "" if it is none.
func KernelVersion(b []byte) string {
	if len(b) < versionPtrOff+2 || string(b[headerMagicOff:headerMagicOff+4]) != headerMagic {
		return ""
	}
	at := int(binary.LittleEndian.Uint16(b[versionPtrOff:])) + versionPtrFrom
	if at == versionPtrFrom || at >= len(b) {
		return ""
	}
	text, _, _ := bytes.Cut(b[at:min(len(b), at+maxVersionLength)], []byte{0})
	version, _, _ := strings.Cut(string(text), " ")
	if version == "." || version == ".." || strings.Contains(version, "/") {
		return "" // it becomes part of a path
	}
	return version
}
