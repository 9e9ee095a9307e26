package container

// A role is what Choose makes of a partition's type.
type role uint8

const (
	roleLinux role = iota // may be the root if a Linux file system is inside
	roleRoot              // is the root
	roleBoot              // what firmware or boot loader read
	roleOther             // certainly not the root: swap, /home, members of a RAID
)

type gptType struct {
	name string
	role role
}

// gptTypes are the partition types of Linux systems: those of the UEFI specification and of the Discoverable
// Partitions Specification (uapi-group.org), and the usual foreign ones.
var gptTypes = map[string]gptType{
	"4f68bce3-e8cd-4db1-96e7-fbcaf984b709": {"Linux root x86-64", roleRoot},
	"b921b045-1df0-41c3-af44-4c6f280d3fae": {"Linux root arm64", roleRoot},
	"44479540-f297-41b2-9af7-d131d5f0458a": {"Linux root x86", roleRoot},
	"69dad710-2ce4-4e3c-b16c-21a1d49abed3": {"Linux root arm", roleRoot},
	"72ec70a6-cf74-40e6-bd49-4bda08e8f224": {"Linux root riscv64", roleRoot},
	"60d5a7fe-8e7d-435c-b714-3dd8162144e1": {"Linux root riscv32", roleRoot},
	"77055800-792c-4f94-b39a-98c91b762bb6": {"Linux root loongarch64", roleRoot},
	"c31c45e6-3f39-412e-80fb-4809c4980599": {"Linux root ppc64le", roleRoot},
	"5eead9a9-fe09-4a1e-a1d7-520d00531306": {"Linux root s390x", roleRoot},

	"0fc63daf-8483-4772-8e79-3d69d8477de4": {"Linux", roleLinux},
	"ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": {"Microsoft basic data", roleLinux},
	"3cb8e202-3b7e-47dd-8a3c-7ff2a13cfcec": {"ChromeOS root", roleLinux},

	"c12a7328-f81f-11d2-ba4b-00a0c93ec93b": {"EFI system", roleBoot},
	"bc13c2ff-59e6-4262-a352-b275fd6f7172": {"Linux extended boot", roleBoot},
	"21686148-6449-6e6f-744e-656564454649": {"BIOS boot", roleBoot},
	"9e1a2d38-c612-4316-aa26-8b49521e5a8b": {"PowerPC PReP boot", roleBoot},
	"024dee41-33e7-11d3-9d69-0008c781f39f": {"MBR scheme", roleBoot},
	"fe3a2a5d-4f32-41a7-b725-accc3285a309": {"ChromeOS kernel", roleBoot},
	"cab6e88e-abf3-4102-a07a-d4bb9be3c1d3": {"ChromeOS firmware", roleBoot},

	"0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": {"Linux swap", roleOther},
	"933ac7e1-2eb4-4f13-b844-0e14e2aef915": {"Linux home", roleOther},
	"3b8f8425-20e0-4f3b-907f-1a25a76f98e8": {"Linux srv", roleOther},
	"4d21b016-b534-45c2-a9fb-5c16e091fd2d": {"Linux var", roleOther},
	"7ec6f557-3bc5-4aca-b293-16ef5df639d1": {"Linux var/tmp", roleOther},
	"8484680c-9521-48c6-9c11-b0720656f69e": {"Linux usr x86-64", roleOther},
	"b0e01050-ee5f-4390-949a-9101b17104e9": {"Linux usr arm64", roleOther},
	"2c7357ed-ebd2-46d9-aec1-23d437ec2bf5": {"Linux root x86-64 verity", roleOther},
	"df3300ce-d69f-4c92-978c-9bfb0f38d820": {"Linux root arm64 verity", roleOther},
	"41092b05-9fc8-4523-994f-2def0408b176": {"Linux root x86-64 verity signature", roleOther},
	"6db69de6-29f4-4758-a7a5-962190f00ce3": {"Linux root arm64 verity signature", roleOther},
	"e6d6d379-f507-44c2-a23c-238f2a3df928": {"Linux LVM", roleOther},
	"a19d880f-05fc-4d3b-a006-743f0f84911e": {"Linux RAID", roleOther},
	"ca7d7ccb-63ed-4c53-861c-1742536059cc": {"LUKS", roleOther},
	"7ffec5c9-2d00-49b7-8941-3ea10a5586b7": {"dm-crypt", roleOther},
	"8da63339-0007-60c0-c436-083ac8230908": {"Linux reserved", roleOther},
	"e3c9e316-0b5c-4db8-817d-f92df00215ae": {"Microsoft reserved", roleOther},
	"de94bba4-06d1-4d40-a16a-bfd50179d6ac": {"Windows recovery", roleOther},
}
