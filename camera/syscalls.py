"""System call numbers of the machines we filter on, and which calls belong together."""

# ruff: noqa: SIM905  a name on each line would make four pages of it

SOCKETS = frozenset(
    """
    accept accept4 bind connect listen recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto socket
    socketpair
    """.split()
)
# What a process needs that answers on a socket it was handed, and that can make none of its own.
ANSWERING = frozenset("accept accept4 listen recvfrom recvmsg sendmsg sendto socketpair".split())
# Other processes, other programs, other name spaces, raw kernel doors: no part of us needs them.
NEVER = frozenset(
    """
    acct add_key adjtimex bpf chroot clock_adjtime clock_settime delete_module execve execveat
    finit_module fork fsconfig fsmount fsopen fspick init_module io_uring_enter
    io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl kill
    mknod mknodat mount mount_setattr move_mount name_to_handle_at
    open_by_handle_at open_tree perf_event_open personality pidfd_getfd pidfd_open
    pidfd_send_signal pivot_root process_madvise process_vm_readv process_vm_writev ptrace
    quotactl reboot request_key rt_sigqueueinfo rt_tgsigqueueinfo setns settimeofday
    swapoff swapon syslog tkill umount2 unshare userfaultfd vfork
    """.split()
)
NEW_OBJECTS = frozenset("memfd_create mq_open msgget semget shmget".split())
FOLDER_CHANGES = frozenset(
    """
    chmod chown creat fchmod fchmodat fchmodat2 fchown fchownat fremovexattr fsetxattr lchown
    link linkat lremovexattr lsetxattr mkdir mkdirat removexattr rename renameat renameat2 rmdir
    setxattr symlink symlinkat truncate unlink unlinkat utimensat
    """.split()
)
# fmt: off
_X86_64 = {
    "accept": 43, "accept4": 288, "acct": 163, "add_key": 248, "adjtimex": 159, "bind": 49,
    "bpf": 321, "chmod": 90, "chown": 92, "chroot": 161, "clock_adjtime": 305,
    "clock_settime": 227, "clone": 56, "clone3": 435, "connect": 42, "creat": 85,
    "delete_module": 176, "execve": 59, "execveat": 322, "fchmod": 91, "fchmodat": 268,
    "fchmodat2": 452, "fchown": 93, "fchownat": 260, "finit_module": 313, "fork": 57,
    "fremovexattr": 199, "fsconfig": 431, "fsetxattr": 190, "fsmount": 432, "fsopen": 430,
    "fspick": 433, "init_module": 175, "io_uring_enter": 426, "io_uring_register": 427,
    "io_uring_setup": 425, "ioctl": 16, "ioperm": 173, "iopl": 172, "kcmp": 312,
    "kexec_file_load": 320, "kexec_load": 246, "keyctl": 250, "kill": 62, "lchown": 94,
    "link": 86, "linkat": 265, "listen": 50, "lremovexattr": 198, "lsetxattr": 189,
    "memfd_create": 319, "mkdir": 83, "mkdirat": 258, "mknod": 133, "mknodat": 259, "mount": 165,
    "mount_setattr": 442, "move_mount": 429, "mq_open": 240, "msgget": 68,
    "name_to_handle_at": 303, "open": 2, "open_by_handle_at": 304, "open_tree": 428,
    "openat": 257, "openat2": 437, "perf_event_open": 298, "personality": 135, "pidfd_getfd": 438,
    "pidfd_open": 434, "pidfd_send_signal": 424, "pivot_root": 155, "process_madvise": 440,
    "process_vm_readv": 310, "process_vm_writev": 311, "ptrace": 101, "quotactl": 179,
    "reboot": 169, "recvfrom": 45, "recvmmsg": 299, "recvmsg": 47, "removexattr": 197,
    "rename": 82, "renameat": 264, "renameat2": 316, "request_key": 249, "rmdir": 84,
    "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "semget": 64, "sendmmsg": 307,
    "sendmsg": 46, "sendto": 44, "setns": 308, "settimeofday": 164, "setxattr": 188, "shmget": 29,
    "socket": 41, "socketpair": 53, "swapoff": 168, "swapon": 167, "symlink": 88,
    "symlinkat": 266, "syslog": 103, "tgkill": 234, "tkill": 200, "truncate": 76, "umount2": 166,
    "unlink": 87, "unlinkat": 263, "unshare": 272, "userfaultfd": 323, "utimensat": 280,
    "vfork": 58,
}
_AARCH64 = {
    "accept": 202, "accept4": 242, "acct": 89, "add_key": 217, "adjtimex": 171, "bind": 200,
    "bpf": 280, "chroot": 51, "clock_adjtime": 266, "clock_settime": 112, "clone": 220,
    "clone3": 435, "connect": 203, "delete_module": 106, "execve": 221, "execveat": 281,
    "fchmod": 52, "fchmodat": 53, "fchmodat2": 452, "fchown": 55, "fchownat": 54,
    "finit_module": 273, "fremovexattr": 16, "fsconfig": 431, "fsetxattr": 7, "fsmount": 432,
    "fsopen": 430, "fspick": 433, "init_module": 105, "io_uring_enter": 426,
    "io_uring_register": 427, "io_uring_setup": 425, "ioctl": 29, "kcmp": 272,
    "kexec_file_load": 294, "kexec_load": 104, "keyctl": 219, "kill": 129, "linkat": 37,
    "listen": 201, "lremovexattr": 15, "lsetxattr": 6, "memfd_create": 279, "mkdirat": 34,
    "mknodat": 33, "mount": 40, "mount_setattr": 442, "move_mount": 429, "mq_open": 180,
    "msgget": 186, "name_to_handle_at": 264, "open_by_handle_at": 265, "open_tree": 428,
    "openat": 56, "openat2": 437, "perf_event_open": 241, "personality": 92, "pidfd_getfd": 438,
    "pidfd_open": 434, "pidfd_send_signal": 424, "pivot_root": 41, "process_madvise": 440,
    "process_vm_readv": 270, "process_vm_writev": 271, "ptrace": 117, "quotactl": 60,
    "reboot": 142, "recvfrom": 207, "recvmmsg": 243, "recvmsg": 212, "removexattr": 14,
    "renameat": 38, "renameat2": 276, "request_key": 218, "rt_sigqueueinfo": 138,
    "rt_tgsigqueueinfo": 240, "semget": 190, "sendmmsg": 269, "sendmsg": 211, "sendto": 206,
    "setns": 268, "settimeofday": 170, "setxattr": 5, "shmget": 194, "socket": 198,
    "socketpair": 199, "swapoff": 225, "swapon": 224, "symlinkat": 36, "syslog": 116,
    "tgkill": 131, "tkill": 130, "truncate": 45, "umount2": 39, "unlinkat": 35, "unshare": 97,
    "userfaultfd": 282, "utimensat": 88,
}
# fmt: on
ARCHITECTURES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}
