package tree

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"sort"
	"strings"
)

// Extended attributes stand in PAX records, in the words of the program that made the archive.
const (
	paxXattr        = "SCHILY.xattr."     // star, GNU tar, Go: the bytes as they are
	paxLibarchive   = "LIBARCHIVE.xattr." // libarchive (bsdtar): escaped name, base64; it adds the other form, too
	paxSELinux      = "RHT.security.selinux"
	aclAccess       = "system.posix_acl_access"
	maxXattrNameLen = 255
	maxXattrLen     = 1 << 16 // of a value, in bytes
)

// GNU tar escapes these in names, as a record's key ends at the first '='.
var unescapeXattr = strings.NewReplacer("%3D", "=", "%25", "%")

// setXattrs gives n the extended attributes of its entry, and the mode that an access ACL among them implies.
func (e *tarEntry) setXattrs(n *Inode) error {
	records := e.hdr.PAXRecords
	found, err := paxXattrs(records)
	if err != nil {
		return err
	}
	for key, name := range aclRecords {
		if records[key] == "" || found[name] != nil {
			continue
		}
		acl, err := encodeACL(records[key])
		if err != nil {
			return err
		}
		if acl != nil {
			found[name] = acl
		}
	}
	for _, name := range aclRecords {
		if acl, ok := found[name]; ok && !validACL(acl) {
			return fmt.Errorf("its %s is no POSIX ACL", name) // the kernel would refuse every access to the file
		}
	}
	if acl := found[aclAccess]; acl != nil {
		if n.Mode = aclMode(n.Mode, acl); len(acl) <= aclMinimal {
			delete(found, aclAccess)
		}
	}
	if s := records[paxSELinux]; s != "" && found["security.selinux"] == nil {
		found["security.selinux"] = append([]byte(s), 0)
	}
	for name, v := range found {
		if len(name) > maxXattrNameLen || len(v) > maxXattrLen {
			return fmt.Errorf("the extended attribute %q of %d bytes is too large", name, len(v))
		}
		n.Xattrs = append(n.Xattrs, Xattr{name, v})
	}
	sort.Slice(n.Xattrs, func(i, j int) bool { return n.Xattrs[i].Name < n.Xattrs[j].Name })
	return nil
}

// paxXattrs collects the attributes that stand in records of their own, by name. Values are not nil.
func paxXattrs(records map[string]string) (map[string][]byte, error) {
	found, plain := map[string][]byte{}, map[string][]byte{}
	for key, value := range records {
		if name, ok := strings.CutPrefix(key, paxXattr); ok {
			if name = unescapeXattr.Replace(name); xattrKept(name) {
				plain[name] = append([]byte{}, value...)
			}
		} else if name, ok := strings.CutPrefix(key, paxLibarchive); ok {
			name, err := url.PathUnescape(name)
			v, verr := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
			if err != nil || verr != nil {
				return nil, fmt.Errorf("the record %.300q of an extended attribute is not understood", key)
			}
			if xattrKept(name) {
				found[name] = v
			}
		}
	}
	if len(found) == 0 {
		found = plain // else it is the same, with names that may have been cut at a '='
	}
	return found, nil
}
