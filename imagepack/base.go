package imagepack

import "bootprof/imagepack/bpk"

// BaseStats tell what of a pack a client has to download that has all of another one in its cache: in stored bytes.
type BaseStats struct {
	Chunks, New         int64 // chunks of boot zone and body; those that the base has not
	Bytes, NewBytes     int64
	BootBytes, NewBoot  int64 // of these: the boot zone
	Indexes             int64 // header, boot index and body index, which are always new
	SamePages, AllPages int64 // image pages in chunks that the base has; all
}

// CompareBase compares the pack p with an older one. A chunk of the body is shared if the base has one of the same
// digest. Chunks of a boot frame share history, so one counts as shared only if the frame is the same up to and with
// it. Only the indexes are read.
func CompareBase(p, base *bpk.Pack) (*BaseStats, error) {
	var st BaseStats
	h := p.Header
	st.AllPages = h.ImageSize / bpk.PageSize
	st.Indexes = bpk.HeaderSize + h.BootIndex.Len + h.BodyRoot.Len
	frames := make(map[[32]byte][]bpk.BootChunk) // of the base, by the digest of their first chunk
	for i := 0; i < len(base.Boot.Chunks); {
		f := frameFrom(base.Boot.Chunks, i)
		frames[f[0].SHA256] = f
		i += len(f)
	}
	for i := 0; i < len(p.Boot.Chunks); {
		f := frameFrom(p.Boot.Chunks, i)
		old, same := frames[f[0].SHA256], true
		for k, c := range f {
			same = same && k < len(old) && old[k].SHA256 == c.SHA256
			st.count(c.Len, int64(c.Pages), same)
			st.BootBytes += c.Len
			if !same {
				st.NewBoot += c.Len
			}
		}
		i += len(f)
	}
	have := make(map[[32]byte]bool)
	if err := base.Chunks(func(e bpk.Entry) error {
		if e.Codec != bpk.CodecZero { // the digest of which is not looked at
			have[e.SHA256] = true
		}
		return nil
	}); err != nil {
		return nil, err
	}
	n := 0
	err := p.Chunks(func(e bpk.Entry) error {
		n++
		cold := int64(0)
		for _, r := range p.Boot.ColdRanges(e.Page, e.Pages) {
			cold += r.Pages
		}
		if e.Codec == bpk.CodecZero {
			st.SamePages += cold
			return nil
		}
		st.count(e.Len, cold, have[e.SHA256])
		have[e.SHA256] = true // content that is there twice is fetched once
		return nil
	})
	st.Indexes += bpk.NodesLen(n)
	return &st, err
}

// frameFrom returns the chunks of the frame that begins with chunk i.
func frameFrom(chunks []bpk.BootChunk, i int) []bpk.BootChunk {
	n := i + 1
	for n < len(chunks) && chunks[n].Frame == chunks[i].Frame {
		n++
	}
	return chunks[i:n]
}

func (st *BaseStats) count(stored, pages int64, same bool) {
	st.Chunks++
	st.Bytes += stored
	if same {
		st.SamePages += pages
		return
	}
	st.New++
	st.NewBytes += stored
}
