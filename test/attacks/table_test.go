package attacks_test

const nobody = 65534

// attacks is the table.
var attacks = []attack{
	// memory
	{name: "noise over a set", expect: "nobody hangs or dies", uid: nobody, do: noiseOver("set")},
	{name: "noise over a queue and its data", expect: "nobody hangs or dies", uid: nobody, do: noiseOver("queue", "queue.data")},
	{name: "a set, word by word, each class of value", expect: "nobody hangs or dies", uid: nobody, do: wordByWord("set")},
	{name: "a queue, word by word, each class of value", expect: "nobody hangs or dies", uid: nobody, do: wordByWord("queue")},
	{name: "noise over the session page", expect: "counts of others stay right", uid: nobody, do: noiseOverPage},
	{name: "attaches of what it was never given", expect: "as if it had said nothing", uid: nobody, do: lieAboutAttaches},
	{name: "noise over everybody's pulse", expect: "hints only: nobody is taken for dead", uid: nobody, do: noiseOverPulse},
	{name: "locks taken again and again", expect: "others get through", uid: nobody, do: lockAgain},
	{name: "commits of nonsense again and again", expect: "others get through", uid: nobody, do: commitNonsense},
	// files
	{name: "truncate, punch, seal, chmod, chattr", expect: "each refused, every length kept", uid: 0, do: damageFiles},
	{name: "reopen through /proc/self/fd", expect: "not for writing what is sealed or read-only", uid: 0, do: reopenFiles},
	{name: "unlink, link, rename by descriptor", expect: "nothing gets a name", uid: 0, do: nameFiles},
	{name: "pwrite past the end of every file", expect: "cut back; promises to others hold", uid: nobody, do: appendToFiles},
	{name: "a write that never ends", expect: "the file's lock keeps nobody else", uid: 0, caps: ",+sys_ptrace", do: endlessWrite},
	{name: "touch all of the pulse", expect: "others keep their memory", uid: nobody, do: touchPulse},
	// the way in
	{name: "the FIFO flooded with garbage", expect: "newcomers get in", uid: nobody, do: floodGarbage},
	{name: "the FIFO flooded with registrations", expect: "sockets bounded, newcomers get in", uid: nobody, do: floodLines},
	{name: "malformed and oversized packets", expect: "channel closed, nothing else", uid: nobody, do: malformed},
	{name: "descriptors sent along", expect: "closed by the manager", uid: nobody, do: descriptors},
	{name: "requests out of order, extreme arguments", expect: "an errno for each", uid: nobody, do: outOfOrder},
	{name: "requests without reading the answers", expect: "cut off", uid: nobody, do: neverRead},
	{name: "requests that look for answers and read none", expect: "not read from; others are served", uid: nobody, do: awaitAlways},
	{name: "connections that say nothing", expect: "bounded", uid: nobody, do: strangers},
	// identity
	{name: "10,000 registrations of one process", expect: "refused after a few; others register", uid: nobody, do: register(10_000)},
	{name: "registrations with 60,000 mappings", expect: "refused after a few; others are served", uid: nobody, do: crowded},
	{name: "credentials of root in a message", expect: "the kernel refuses them", uid: nobody, do: lieAboutIDs},
	{name: "a channel used by another user's process", expect: "the sender's rights count", uid: 0, do: lendChannel},
	{name: "session and cookie of another process", expect: "EPERM", uid: 0, do: stolenCookie},
	{name: "session and cookie of a dead process, pid reused", expect: "ESRCH or EPERM", uid: 0, caps: ",+sys_admin,+checkpoint_restore", do: reusedPID},
	{name: "the public folder, mounted read-only, by its root", expect: "EROFS for all of it", uid: 0, caps: ",+sys_admin", do: publicFolder},
	{name: "symlinks and /proc of the manager", expect: "EACCES", uid: nobody, do: managersProc},
	// rights
	{name: "root's objects, mode 0600", expect: "EACCES for all, no descriptor", uid: nobody, do: secrets},
	{name: "a queue that may only be written", expect: "sends; EACCES for the rest; no descriptor", uid: nobody, do: writeOnlyQueue},
	{name: "a set that may only be read", expect: "reads; EACCES for the rest; no descriptor", uid: nobody, do: readOnlySet},
	{name: "a segment that may only be read", expect: "EACCES to map or open it for writing", uid: nobody, do: readOnlySegment},
	{name: "a set narrowed by IPC_SET while mapped", expect: "old mapping changes nothing", uid: nobody, do: narrowed},
	// limits
	{name: "all queues (msgmni)", expect: "ENOSPC; IPC_RMID gives them back", uid: nobody, frugal: true, do: exhaust(msg, 0)},
	{name: "all segments (shmmni)", expect: "ENOSPC; IPC_RMID gives them back", uid: nobody, frugal: true, do: exhaust(shm, 1)},
	{name: "all sets (semmni)", expect: "ENOSPC; IPC_RMID gives them back", uid: nobody, frugal: true, do: exhaust(sem, 1)},
	{name: "all bytes of the space", expect: "ENOSPC, ENOMEM; IPC_RMID gives them back", uid: nobody, frugal: true, do: exhaustBytes},
	{name: "brokered calls that sleep", expect: "ENOMEM after so many; threads bounded", uid: nobody, do: exhaustCalls},
	{name: "spare sessions without forks", expect: "EAGAIN after so many", uid: nobody, do: exhaustSpares},
}
