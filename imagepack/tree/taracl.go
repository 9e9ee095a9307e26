package tree

import (
	"encoding/binary"
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// aclRecords are the PAX records in which GNU tar --acls and star keep POSIX ACLs, as text.
var aclRecords = map[string]string{
	"SCHILY.acl.access":  "system.posix_acl_access",
	"SCHILY.acl.default": "system.posix_acl_default",
}

// Tags of ACL entries, from <linux/posix_acl.h>.
const (
	aclMinimal  = 4 + 3*8 // bytes of an ACL that says no more than a mode: the kernel keeps none
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// validACL tells whether the kernel would take the bytes for an ACL, as far as their form goes.
func validACL(acl []byte) bool {
	if len(acl) < aclMinimal || (len(acl)-4)%8 != 0 || binary.LittleEndian.Uint32(acl) != 2 {
		return false
	}
	last, named, mask := uint16(0), false, false
	for e := acl[4:]; len(e) > 0; e = e[8:] {
		tag, perm := binary.LittleEndian.Uint16(e), binary.LittleEndian.Uint16(e[2:])
		repeats := tag == last && (tag == aclUser || tag == aclGroup)
		if tag == 0 || tag&(tag-1) != 0 || tag > aclOther || tag <= last && !repeats || perm > 7 {
			return false
		}
		last = tag
		named, mask = named || tag == aclUser || tag == aclGroup, mask || tag == aclMask
	}
	return last == aclOther && (mask || !named)
}

// aclMode returns a mode with the permissions that an access ACL gives owner, group and others, as the kernel keeps
// the two alike: where the ACL has a mask, that is what the group's bits show.
func aclMode(mode uint32, acl []byte) uint32 {
	group, mask := -1, -1
	for e := acl[min(4, len(acl)):]; len(e) >= 8; e = e[8:] {
		switch perm := int(e[2] & 7); binary.LittleEndian.Uint16(e) {
		case aclUserObj:
			mode = mode&^0o700 | uint32(perm)<<6
		case aclGroupObj:
			group = perm
		case aclMask:
			mask = perm
		case aclOther:
			mode = mode&^0o7 | uint32(perm)
		}
	}
	if mask >= 0 {
		group = mask
	}
	if group >= 0 {
		mode = mode&^0o70 | uint32(group)<<3
	}
	return mode
}

// encodeACL turns an ACL from text ("user::rw-,user:1234:r--,group::r--,...") into the form of the extended
// attribute (<linux/posix_acl_xattr.h>). Names of users and groups mean nothing outside the system that
// made the archive: they are an error unless a number follows, as star writes it.
func encodeACL(text string) ([]byte, error) {
	var list []aclEntry
	for _, item := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		item, _, _ = strings.Cut(item, "#")
		f := strings.Split(strings.TrimSpace(item), ":")
		if len(f) == 1 && f[0] == "" {
			continue
		}
		if len(f) < 3 {
			return nil, fmt.Errorf("ACL entry %q is not understood", item)
		}
		e := aclEntry{id: 0xffffffff}
		named := false
		switch f[0] {
		case "user", "u":
			e.tag, named = aclUserObj, f[1] != ""
		case "group", "g":
			e.tag, named = aclGroupObj, f[1] != ""
		case "mask", "m":
			e.tag = aclMask
		case "other", "o":
			e.tag = aclOther
		default:
			return nil, fmt.Errorf("ACL entry %q is not understood", item)
		}
		if named {
			e.tag *= 2 // user_obj to user, group_obj to group
			id := f[1]
			if len(f) > 3 {
				id = f[3]
			}
			n, err := strconv.ParseUint(id, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("ACL entry %q names a user or group: make the archive with tar --numeric-owner", item)
			}
			e.id = uint32(n)
		}
		for _, c := range f[2] {
			switch c {
			case 'r':
				e.perm |= 4
			case 'w':
				e.perm |= 2
			case 'x':
				e.perm |= 1
			case '-':
			default:
				return nil, fmt.Errorf("ACL entry %q is not understood", item)
			}
		}
		list = append(list, e)
	}
	if len(list) == 0 {
		return nil, nil
	}
	sort.SliceStable(list, func(i, j int) bool {
		if list[i].tag != list[j].tag {
			return list[i].tag < list[j].tag
		}
		return list[i].id < list[j].id
	})
	out := binary.LittleEndian.AppendUint32(nil, 2) // POSIX_ACL_XATTR_VERSION
	for _, e := range list {
		out = binary.LittleEndian.AppendUint16(out, e.tag)
		out = binary.LittleEndian.AppendUint16(out, e.perm)
		out = binary.LittleEndian.AppendUint32(out, e.id)
	}
	return out, nil
}
