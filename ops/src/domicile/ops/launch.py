"""Start one child so that it cannot outlive its starter; run as a script, before anything is imported.

``python -I -S launch.py PARENT SIGNAL UNPRIVILEGED COMMAND...`` replaces itself by COMMAND, after

- asking the kernel to send SIGNAL when the starter ends, however it ends (prctl PR_SET_PDEATHSIG);
- with UNPRIVILEGED=1, mapping root to an ordinary user in a user namespace of its own, because PostgreSQL
  refuses uid 0. Files then still belong to root outside.

Where the system has no such call (macOS), the child runs all the same and ``domicile down`` ends it.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
UNPRIVILEGED_ID = 1000


def become_ordinary(libc: ctypes.CDLL) -> None:
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER) != 0:
        reason = os.strerror(ctypes.get_errno())
        sys.exit(
            f"PostgreSQL refuses to run as root, and no user namespace can be made ({reason}): "
            "run domicile as an ordinary user"
        )
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"{UNPRIVILEGED_ID} {user} 1"),
        ("gid_map", f"{UNPRIVILEGED_ID} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as stream:
            stream.write(content)


def main() -> None:
    parent, number, unprivileged, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if unprivileged == "1":
            become_ordinary(libc)
        libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit("the starter ended first")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
