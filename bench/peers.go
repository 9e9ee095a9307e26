package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The peers: programs that a user could boot with instead of bootprof, each as its own documentation would have it for this
// job. docs/benchmarks.md tells which settings that are, and why not others.

// Httpfs2 asks for what each read needs, over one connection. It is what live-boot's httpfs= runs.
func Httpfs2(image string) Peer {
	return Peer{
		Name: "httpfs2", Served: image, Warm: []string{"httpfs2"},
		Commands: func(m PeerMount) []PeerCommand {
			// Its console must exist.
			return []PeerCommand{{Args: []string{"httpfs2", "-f", "-c", "/proc/self/fd/2", m.URL, m.Dir}}}
		},
	}
}

// Httpdirfs asks for what each read needs. With cached it asks for segments of 1 MB, its least, and keeps them; in its mode for a
// single file it takes the option and keeps nothing, so it is given the directory.
func Httpdirfs(image string, cached bool) Peer {
	p := Peer{Name: "httpdirfs", Served: image, Warm: []string{"httpdirfs"}}
	if cached {
		p.Name += "-cache"
	}
	p.Commands = func(m PeerMount) []PeerCommand {
		args := []string{"httpdirfs", "-f"}
		if cached {
			args = append(args, "--cache", "--cache-location", m.Cache, "--dl-seg-size", "1", m.Bases[0]+"/", m.Dir)
		} else {
			args = append(args, "--single-file-mode", m.URL, m.Dir)
		}
		return []PeerCommand{{Args: args, Env: []string{"HOME=" + m.Work}}}
	}
	return p
}

// Nbdkit is nbdkit's curl plugin behind a Unix socket, and nbdfuse, which makes a file of that. name is added to "nbdkit";
// filters are arguments of nbdkit: --filter=... before the plugin, and settings behind it.
func Nbdkit(name, image string, filters, settings []string) Peer {
	return Peer{
		Name: "nbdkit" + name, Served: image, Warm: []string{"nbdkit", "nbdfuse"}, Image: "nbd",
		Commands: func(m PeerMount) []PeerCommand {
			socket := filepath.Join(m.Work, "nbd.sock")
			server := append([]string{"nbdkit", "--foreground", "--readonly", "--unix", socket}, filters...)
			server = append(server, "curl", "url="+m.URL)
			return []PeerCommand{
				// The cache and cow filters keep their file in TMPDIR.
				{Args: append(server, settings...), Await: socket, Env: []string{"TMPDIR=" + m.Work}},
				{Args: []string{"nbdfuse", "--readonly", m.Dir, "nbd+unix://?socket=" + socket}},
			}
		},
	}
}

// NbdkitCache keeps blocks of 1 MiB in the cache filter, so that a boot makes fewer requests than with its default of 64 KiB.
func NbdkitCache(image string) Peer {
	return Nbdkit("-cache", image, []string{"--filter=cache"}, []string{"cache-on-read=true", "cache-min-block-size=1M"})
}

// NbdkitCow keeps blocks of 1 MiB in the cow filter, which takes reads in parallel.
func NbdkitCow(image string) Peer {
	return Nbdkit("-cow", image, []string{"--filter=cow"}, []string{"cow-on-read=true", "cow-block-size=1M"})
}

// NbdkitReadahead reads ahead of sequential reads into a cache, as nbdkit-readahead-filter(1) has it.
func NbdkitReadahead(image string) Peer {
	return Nbdkit("-readahead", image, []string{"--filter=readahead", "--filter=cache"},
		[]string{"cache-on-read=true", "cache-min-block-size=1M"})
}

// NbdkitRetry opens the connection again after an error: nbdkit-retry-filter(1) is for servers that go away.
func NbdkitRetry(image string) Peer {
	return Nbdkit("-retry", image, []string{"--filter=retry"}, nil)
}

// Rclone finds the image in a directory listing. It keeps what it read in a cache on disk, which it fills in pieces: with its
// default, 128 MB at a time, it would fetch most of the image.
func Rclone(image string) Peer {
	return Peer{
		Name: "rclone", Served: image, Warm: []string{"rclone", "fusermount3"},
		Commands: func(m PeerMount) []PeerCommand {
			return []PeerCommand{{
				Args: []string{"rclone", "mount", ":http:", m.Dir, "--http-url", m.Bases[0] + "/", "--read-only",
					"--vfs-cache-mode", "full", "--cache-dir", m.Cache, "--buffer-size", "0", "--vfs-read-chunk-size", "256k",
					"--vfs-read-chunk-size-limit", "2M", "--dir-cache-time", "1h"},
				Env: []string{"HOME=" + m.Work},
			}}
		},
	}
}

// A DesyncImage is what `desync make` made of an image.
type DesyncImage struct {
	Index string // FILE.caibx
	Store string // the directory of chunks
	State string // file that says which chunks a boot reads
}

// Desync is desync mount-index. binary is the desync to run.
//
// Cold, chunks are fetched when they are read. Trained, the state of an earlier boot says which ones to fetch ahead into the
// copy-on-read file. With cached, chunks are kept in a store of their own for the next boot, or for another image. From several
// servers, the next one is asked when one fails.
func Desync(name, binary string, image DesyncImage, trained, cached bool) Peer {
	p := desync(name, binary, image, cached)
	if trained {
		p.args = append(p.args, "--cor-state-init", image.State)
	}
	return p.peer()
}

// DesyncTraining is a boot that writes image.State.
func DesyncTraining(binary string, image DesyncImage) Way {
	p := desync("desync-training", binary, image, false)
	fresh := image.State + ".new"
	p.args = append(p.args, "--cor-state-save", fresh)
	w := p.peer().Way()
	w.Sample = func(ctx context.Context, r *Run) error {
		// desync writes its state on SIGHUP, in one piece.
		if err := r.peer.cmds[0].Process.Signal(syscall.SIGHUP); err != nil {
			return err
		}
		for deadline := time.Now().Add(10 * time.Second); !isReady(fresh); {
			if ctx.Err() != nil || time.Now().After(deadline) {
				return fmt.Errorf("%s writes no state file", binary)
			}
			time.Sleep(peerPoll)
		}
		return os.Rename(fresh, image.State)
	}
	return w
}

// desyncPeer is what the forms of desync have in common.
type desyncPeer struct {
	name, binary string
	image        DesyncImage
	cached       bool
	args         []string
}

func desync(name, binary string, image DesyncImage, cached bool) desyncPeer {
	return desyncPeer{name: name, binary: binary, image: image, cached: cached}
}

func (d desyncPeer) peer() Peer {
	index := filepath.Base(d.image.Index)
	return Peer{
		Name: d.name, Served: d.image.Index, Beside: []string{d.image.Store}, Warm: []string{d.binary}, Mirrors: true,
		Image: strings.TrimSuffix(index, filepath.Ext(index)),
		Commands: func(m PeerMount) []PeerCommand {
			var stores []string
			for _, base := range m.Bases {
				stores = append(stores, base+"/"+filepath.Base(d.image.Store))
			}
			args := []string{d.binary, "mount-index", "--store", strings.Join(stores, "|"), "--cor-file", filepath.Join(m.Work, "cor")}
			if d.cached {
				chunks := filepath.Join(m.Cache, "chunks")
				_ = os.MkdirAll(chunks, 0o755) // desync says what is wrong with it
				args = append(args, "--cache", chunks)
			}
			return []PeerCommand{{Args: append(append(args, d.args...), m.URL, m.Dir), Env: []string{"HOME=" + m.Work}}}
		},
	}
}
