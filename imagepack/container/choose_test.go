package container

import (
	"errors"
	"strings"
	"testing"

	"bootprof/imagepack/tree"
)

// files makes parts of an ISO out of "name length" pairs; a name that ends in "=" lies where the one before lies.
func files(pairs ...any) []Part {
	var parts []Part
	for i := 0; i < len(pairs); i += 2 {
		name := pairs[i].(string)
		p := Part{Name: strings.TrimSuffix(name, "="), Off: int64(i+1) << 40, Len: int64(pairs[i+1].(int)), Kind: "squashfs"}
		if strings.HasSuffix(name, "=") {
			p.Off = parts[len(parts)-1].Off
		}
		parts = append(parts, p)
	}
	return parts
}

func disk(parts ...Part) []Part {
	for i := range parts {
		parts[i].Number, parts[i].Len = i+1, 1<<20
		parts[i].Name = "partition " + string(rune('1'+i)) + " (x)"
	}
	return parts
}

func TestChoose(t *testing.T) {
	esp, swap := Part{role: roleBoot, Kind: "vfat"}, Part{role: roleOther}
	linux, home := Part{role: roleLinux, Kind: "ext4"}, Part{role: roleOther, Kind: "ext4"}
	root, rootCrypt := Part{role: roleRoot, Kind: "xfs"}, Part{role: roleRoot}
	boot := Part{role: roleBoot, Kind: "ext4"}
	for _, c := range []struct {
		name  string
		parts []Part
		want  string
		get   string // "" if it must be asked
	}{
		{"nothing", nil, "", ""},
		{"debian", files("live/filesystem.squashfs", 10, "install/other.squashfs", 900), "", "live/filesystem.squashfs"},
		{"debian, capital names", files("LIVE/FILESYSTEM.SQUASHFS", 10, "x.sqfs", 30), "", "LIVE/FILESYSTEM.SQUASHFS"},
		{"debian with modules", files("live/filesystem.squashfs", 900, "live/extra.squashfs", 1), "", ""},
		{"casper", files("casper/filesystem.squashfs", 100, "casper/installer.squashfs", 200), "", "casper/filesystem.squashfs"},
		{"casper, layers of it", files("casper/filesystem.squashfs", 900, "casper/filesystem.live.squashfs", 1), "", ""},
		{"ubuntu layers", files("casper/minimal.squashfs", 900, "casper/minimal.standard.squashfs", 100), "", ""},
		{"fedora", files("LiveOS/squashfs.img", 1000, "images/install.img", 999), "", "LiveOS/squashfs.img"},
		{"arch", files("arch/x86_64/airootfs.sfs", 10), "", "arch/x86_64/airootfs.sfs"},
		{"arch, two machines", files("arch/x86_64/airootfs.sfs", 10, "arch/i686/airootfs.sfs", 10), "", ""},
		{"arch, two names of one", files("arch/i686/airootfs.sfs", 10, "arch/x86_64/airootfs.sfs=", 10), "", "arch/i686/airootfs.sfs"},
		{"only one", files("sysresccd/x86_64/airootfs.sfs", 10), "", "sysresccd/x86_64/airootfs.sfs"},
		{"only one, twice", files("a/image.squashfs", 10, "b/image.squashfs=", 10), "", "a/image.squashfs"},
		{"clearly largest", files("boot/modloop", 10, "nix-store.squashfs", 100), "", "nix-store.squashfs"},
		{"not clearly", files("boot/modloop", 30, "nix-store.squashfs", 100), "", ""},
		{"slax layers", files("slax/01-core.sb", 1000, "slax/02-x.sb", 10, "slax/03-y.sb", 10), "", ""},
		{"named", files("casper/minimal.squashfs", 900, "casper/minimal.standard.squashfs", 100), "casper/minimal.squashfs", "casper/minimal.squashfs"},
		{"named with slash", files("a", 1, "b", 1), "/b", "b"},
		{"named in other case", files("LIVE/A.SQ", 1, "b", 1), "live/a.sq", "LIVE/A.SQ"},
		{"named ambiguously", files("LIVE/A", 1, "live/a", 1), "Live/a", ""},
		{"named wrongly", files("a", 1), "c", ""},
		{"number in an ISO", files("a", 1), "1", ""},

		{"GPT root type", disk(esp, linux, root, home), "", "partition 3 (x)"},
		{"root type, unknown inside", disk(esp, linux, rootCrypt), "", "partition 3 (x)"},
		{"two roots, one in use", disk(rootCrypt, root), "", "partition 2 (x)"},
		{"two roots", disk(root, root), "", ""},
		{"two roots, none known", disk(rootCrypt, rootCrypt, linux), "", ""},
		{"only Linux file system", disk(esp, swap, boot, linux, home), "", "partition 4 (x)"},
		{"two Linux file systems", disk(esp, linux, linux), "", ""},
		{"no Linux file system", disk(esp, swap), "", ""},
		{"by number", disk(esp, linux, linux), "2", "partition 2 (x)"},
		{"by name", disk(esp, linux, linux), "partition 2 (x)", "partition 2 (x)"},
		{"no such number", disk(esp, linux), "0", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Choose(c.parts, c.want)
			if c.get != "" {
				if err != nil || p.Name != c.get {
					t.Errorf("Choose = %q, %v; want %q", p.Name, err, c.get)
				}
				return
			}
			var choice *ChoiceError
			if !errors.As(err, &choice) || len(choice.Parts) != len(c.parts) {
				t.Fatalf("Choose = %q, %v; want a ChoiceError", p.Name, err)
			}
			for _, p := range c.parts {
				if !strings.Contains(err.Error(), p.Name) {
					t.Errorf("%q does not name %s", err, p.Name)
				}
			}
			if len(c.parts) > 0 && !strings.Contains(err.Error(), "--inside") {
				t.Errorf("%q does not name the flag", err)
			}
		})
	}
}

// TestChoiceErrorIsShort: names come from the image and may be many and hold anything.
func TestChoiceErrorIsShort(t *testing.T) {
	var pairs []any
	for range 1000 {
		pairs = append(pairs, "dir/a\nb\x1b[2J", 5)
	}
	_, err := Choose(files(pairs...), "")
	if msg := err.Error(); len(msg) > 1000 || strings.ContainsAny(msg, "\n\x1b") || !strings.Contains(msg, "and 988 more") {
		t.Errorf("error %q", msg)
	}
}

func TestNestedImage(t *testing.T) {
	dir := func(entries ...tree.Entry) *tree.Inode {
		return &tree.Inode{Mode: tree.ModeDir | 0o755, Entries: entries}
	}
	img := &tree.Inode{Mode: tree.ModeRegular | 0o644, Size: 4096}
	liveOS := tree.Entry{Name: "LiveOS", Inode: dir(tree.Entry{Name: "rootfs.img", Inode: img})}
	if path, f := NestedImage(dir(liveOS)); path != "LiveOS/rootfs.img" || f != img {
		t.Errorf("NestedImage = %q, %v", path, f)
	}
	for name, root := range map[string]*tree.Inode{
		"empty":                    dir(),
		"root with such directory": dir(liveOS, tree.Entry{Name: "usr", Inode: dir()}),
		"file of the name":         dir(tree.Entry{Name: "LiveOS", Inode: img}),
		"other file":               dir(tree.Entry{Name: "LiveOS", Inode: dir(tree.Entry{Name: "x", Inode: img})}),
		"directory of the name":    dir(tree.Entry{Name: "LiveOS", Inode: dir(tree.Entry{Name: "rootfs.img", Inode: dir()})}),
	} {
		if path, f := NestedImage(root); f != nil {
			t.Errorf("%s: NestedImage = %q", name, path)
		}
	}
}
