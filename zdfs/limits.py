"""Every bound and every default, with its reason.  The assertions at the end tie them together.

Sizes are bytes, times are seconds (`_s`) or milliseconds (`_ms`) unless the name says otherwise.
"""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# --- the file system -------------------------------------------------------------------------
NAME_BYTES = 255  # POSIX NAME_MAX
PATH_BYTES = 4096  # POSIX PATH_MAX, the NUL included
SYMLINK_BYTES = 4095
XATTR_NAME_BYTES = 255  # Linux XATTR_NAME_MAX
XATTR_VALUE_BYTES = 64 * KIB  # Linux XATTR_SIZE_MAX
XATTR_LIST_BYTES = 64 * KIB  # Linux XATTR_LIST_MAX
ACL_BYTES = 4096  # 511 entries: the kernel reads a list of FUSE into one page
LINKS = 65_000  # as ext4
FILE_BYTES = 2**63 - 1
REPLICAS = 3
QUORUM = 2  # replicas that a commit needs under policy quorum: more than half
SERVERS_MIN = 3
SERVERS = 1024
BLOCK_BYTES_MIN = 8  # the seed's picture
BLOCK_BYTES_MAX = MIB
BLOCK_BYTES = 64 * KIB  # first guess: a 4 KiB overwrite stays cheap, a checksum costs 4 us
PAGE_BLOCKS = 64  # map entries in one record: 64 x 26 bytes stay below LMDB's overflow limit, 2038
PAGES = FILE_BYTES // (PAGE_BLOCKS * BLOCK_BYTES_MIN) + 1  # of the map of the longest file

# --- messages --------------------------------------------------------------------------------
HEAD_BYTES = 256 * KIB  # a header frame: the largest listing, inventory or xattr fits
FRAME_BYTES = BLOCK_BYTES_MAX  # a bulk frame is one block
SEALED_BYTES = max(HEAD_BYTES, FRAME_BYTES) + 64  # a frame as ZeroMQ counts it: CURVE adds 33
BLOCKS = 256  # blocks in one vectored Put or Get
FRAMES = BLOCKS + 4  # frames in one message, routing included
MESSAGE_BYTES = 8 * MIB  # sum over the frames of one message
BATCH_BYTES = 2 * MIB  # what we aim for in one vectored message: three of them pipeline well
LIST_ITEMS = 4096  # longest list in a header
DEBTS_EXAMINED = 8192  # records of debts that one ListDebts looks at: some milliseconds
VERSIONS = 512  # versions that fsck asks about at once: some milliseconds of a server's time
HITS = 512  # files that one answer to zdfs impact names: 64 bytes each
DISPUTES = 32  # grants, locks or waiters that one answer names: people read them
SUMMED = 1024  # entries that one SumDirectory looks at: some ten milliseconds
OPEN_TOLD = 512  # open files that one answer names: 100 bytes each
OPEN_EXAMINED = 2048  # ... and looks at
LOCKERS = 8  # processes with locks that are named of an open file
EXPLAINED = 32  # calls, failures or servers that a mount names: 32 KiB, an attribute has 64
PATH_SHOWN = 256  # the end of a path in it
FAULTS = 64  # metadata faults in one answer: texts of a KiB fit into one head
MEASURES_BYTES = 160 * KIB  # in one Measures: with msgpack's own bytes they fit into a head
TEXT_BYTES = 4096  # longest text for people
ADDRESS_BYTES = 255
WALK_NAMES = 64  # names in one Lookup
LISTING_BYTES = 128 * KIB  # what a page of ReadDirectory aims for
LISTING_ENTRIES = 512
SLOTS = 256  # changes a session may have outstanding
SLOTS_KEPT = 32  # ... of which those that wait for another mount leave so many to the others
SESSIONS = 4096
PEERS_QUEUED = 1000  # messages queued per ZeroMQ peer (HWM)
PARKED = 8192  # requests waiting in one server: each is a coroutine

# --- locks -----------------------------------------------------------------------------------
LOCKS = 16_384  # ranges that one mount's programs hold
LOCKS_OF_FILE = 4096  # ranges held of one file: one more takes 0.1 ms; 4, if as many hold them
LOCKS_TOLD = 1024  # ranges in one Announce: it must fit beside files and grants
LOCKS_SPLIT = 2 * SLOTS  # ... and more after a restart: each change underway may have split one
LOCK_WAITERS = 1000  # of one mount: half of its workers stay free for everything else
LOCK_WAITER_S = 5.0  # a waiter that did not ask again for so long is gone

# --- proofs of absence -----------------------------------------------------------------------
PROOF_ENTRIES = 16_384  # a directory's names are summed before one is missed (10 ms); above: walk
PROOF_PAGES = 4096  # likewise a map's pages before one is taken for holes
PROOFS = 65_536  # directories and attribute lists remembered as proven
INVENTORY_PAGES = 128  # that one answer to Inventory shows: they fit into one head
INVENTORY_EXAMINED = 2048  # map pages one Inventory looks at: some milliseconds

# --- time ------------------------------------------------------------------------------------
FIRST_NS = -(2**63)  # 1677: times of files are kept as msgpack's integers, which end here
LAST_NS = 2**64 - 1  # and in 2554; ext4's are from 1901 to 2446.  Others become the nearest
TIMEOUT_S = 2.0  # a request without reply: the server is a suspect
BULK_TIMEOUT_S = 5.0  # a message with blocks: disks may be busy
PATIENCE_S = 60.0  # a request is never kept waiting for longer, whatever its sender says
RETRY_S = 1.0  # a blocked write asks again
BEAT_S = 1.0
JOIN_S = 0.2  # a dataserver that isn't accepted yet reports so often
DOWN_S = 3.0  # silence after which the cluster map says down
SESSION_S = 10.0  # life of a session without heartbeat, unless the metaserver is told another
ANNOUNCE_S = 60.0  # ... and a mount has so long to say what it holds after a restart: others wait
SESSION_MIN_S = 3.0  # ... which is at least this: three heartbeats
DEAF_BEATS = 5  # a mount that heard no reply to so many heartbeats can't hear recalls either
SUSPECT_S = 3.0  # a client leaves a server alone for so long after a timeout
GIVE_UP_READ_S = 6.0  # no replica of a block answers: EIO ("within seconds")
HOLD_S = 0.05  # a grant that is being written under is kept so long: several writes a turn
FLUSH_WAIT_S = 1.0  # an open for reading waits so long for another mount's flush
RECALL_S = 2.0  # between two recalls of the same grant
KEEP_SUPERSEDED_S = 1.0  # an overwritten version stays for readers underway
FLUSH_AFTER_S = 0.5  # a partial dirty block waits so long for its rest
PASS_S = (
    300.0  # what lets a client at blocks is signed under a secret of so long; ends in twice that
)
CACHE_S = 1.0  # names and attributes are at most so stale
INTERRUPT_POLL_S = 0.05  # a waiting FUSE worker looks for a signal
SIGNALLED_S = 1.0  # what takes longer is blocked: a signal ends it, also one that is caught
CHECKPOINT_S = 1.0  # a dataserver's index follows its log by so much

# --- memory ----------------------------------------------------------------------------------
DIRTY_BYTES = 32 * MIB  # write-behind per mount
CACHED_BYTES = 48 * MIB  # clean blocks per mount
READ_AHEAD_BYTES = 4 * MIB
COPY_BYTES = GIB  # one copy_file_range: its count must fit the kernel's 32 bits
NAMES_CACHED = 65_536  # entries in a mount's name and attribute caches
XATTRS_MISSED = 16  # names of attributes that an inode is remembered to lack
LOOKED_AT = 65_536  # inodes per mount that the metaserver will tell it of when they change
EVENTS = 1000  # newest events kept by the metaserver
EVENTS_TOLD = 128  # ... in one answer; by bytes they are fewer if their texts are long
EVENTS_UNTOLD = 256  # kept by a dataserver that can't tell the metaserver

# --- mounts ----------------------------------------------------------------------------------
FUSE_WORKERS = 2000  # threads: so many operations may be blocked before the mount is
FUSE_IDLE = 8  # threads that wait for work; those beyond end
FUSE_BACKGROUND = 1024  # the kernel's read-ahead, page writes and releases underway
READ_AHEAD_KIB = 1024  # the kernel's own, per file: as large as a FUSE request
MOUNT_ANSWERS_S = 10.0  # a mount that says it is ready must answer within
GOODBYE_S = 6.0  # a mount that ends tries to tell the metaserver
MOUNT_TRIES_S = 10.0  # zdfs-mount without -f waits so long for a metaserver that serves
MOUNT_JOIN_S = 10.0  # operations still underway get so long when the mount ends
MOUNT_OPTIONS = 64  # -o options

# --- stores ----------------------------------------------------------------------------------
SEGMENT_BYTES = 64 * MIB
META_MAP_BYTES = 64 * GIB  # sparse: address space, not disk
INDEX_MAP_BYTES = 64 * GIB
META_RESERVE_BYTES = 16 * MIB  # growth is refused below: deleting needs copy-on-write room
DATA_RESERVE_BYTES = 256 * MIB  # segments that are moved, copies of the metadata, the index
RESERVE_PARTS = 4  # ... of these, one for the last two, and three for segments, each as large
SCRUB_BYTES_PER_S = 16 * MIB
META_COPIES = 2  # dataservers that have each round of the metaserver before its replies leave
COPIES = 5  # ... at most: more wait for the slowest of many without being safer
OUTBOX_ROUNDS = 1024  # rounds that the metaserver keeps for members that have yet to hear them
OUTBOX_BYTES = 16 * MIB  # ... and their bytes; a member further behind is filled anew
ROUND_FRAMES = 1024  # of one round, in pieces: letting go of a file of 3 TiB
COPY_ROUNDS = 64  # rounds in one Append
MIRROR_BYTES = MIB  # of changes that wait for the mirror: a commit of some ten milliseconds
MIRROR_S = 1.0  # ... and for so long
JOURNAL_ROUNDS = 512  # kept behind the mirror: a metaserver that died lacks the last few
REPLACE_S = 10.0  # a member of the journal set that is down so long is replaced, if one can
SCRUB_PERIOD_S = 7 * 86_400.0  # each stored byte is read again within: disks rot slowly
SCRUB_PERIOD_MIN_S = 60.0  # shorter, a pass would follow the other without a rest
REBUILD_FLIGHT_BYTES = 8 * MIB

assert 2 * QUORUM > REPLICAS and QUORUM < REPLICAS
assert BLOCK_BYTES_MIN <= BLOCK_BYTES <= BLOCK_BYTES_MAX <= FRAME_BYTES
assert FRAME_BYTES + HEAD_BYTES <= MESSAGE_BYTES and BATCH_BYTES + FRAME_BYTES <= MESSAGE_BYTES
assert XATTR_VALUE_BYTES + XATTR_NAME_BYTES < HEAD_BYTES and LISTING_BYTES * 2 <= HEAD_BYTES
assert LISTING_ENTRIES <= LIST_ITEMS and BLOCKS <= LIST_ITEMS
assert 2 * LOCK_WAITERS <= FUSE_WORKERS and 3 * RETRY_S < LOCK_WAITER_S
assert FLUSH_WAIT_S < TIMEOUT_S < DOWN_S < GIVE_UP_READ_S < SESSION_S
assert SEGMENT_BYTES >= 2 * MESSAGE_BYTES
assert DOWN_S < REPLACE_S and JOURNAL_ROUNDS < OUTBOX_ROUNDS
