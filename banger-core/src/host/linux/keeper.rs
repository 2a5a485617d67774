//! Who watches over a program that runs for us: a process between us and it, forked and never exec'd.
//!
//! ```text
//!   us ── leash (a pipe) ──► keeper ──► the program ──► whatever it starts
//! ```
//!
//! The keeper ends the program and everything that came of it (whatever group or session it moved to)
//! when the leash is let go of: because a limit was reached, because nobody wants the answer any more, or
//! because we are gone, `kill -9` included. It adopts orphans (`PR_SET_CHILD_SUBREAPER`), so that nothing
//! can leave its family. When the program ends by itself, what it left behind is ended too, and the
//! keeper's own status is the program's: 128+n for signal n, as everywhere here.
//!
//! With a [`Cell`] the program is also put where it can reach nothing: another user, namespaces of its
//! own, no capabilities, and Landlock.
//!
//! All of it happens between fork and exec in a process that had many threads: nothing here may allocate,
//! lock or panic. What it needs is made ready before the fork.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use libc::{c_int, c_long, c_uint, c_ulong, pid_t};

use crate::host::ProgramLimits;

/// What the child needs to know, made before the fork.
#[derive(Debug)]
pub(in crate::host) struct Plan {
    /// The end of the leash that the keeper watches.
    pub(in crate::host) leash: OwnedFd,
    pub(in crate::host) limits: [(c_int, libc::rlimit); 5],
    /// Processes at once, where they can be counted.
    pub(in crate::host) processes: u32,
    pub(in crate::host) cell: Option<Cell>,
}

/// The place in which a parser of foreign bytes runs.
#[derive(Debug)]
pub(in crate::host) struct Cell {
    /// Becomes this user first, if we are root.
    pub(in crate::host) become_user: Option<u32>,
    /// The lines of the user namespace's maps, each `ID ID 1`.
    pub(in crate::host) uid_map: Vec<u8>,
    pub(in crate::host) gid_map: Vec<u8>,
    /// Landlock's rules; none where the kernel has none.
    pub(in crate::host) rules: Option<OwnedFd>,
    /// What the program reads: kept open in it under the numbers that they have.
    pub(in crate::host) inputs: Vec<Arc<File>>,
}

/// The namespaces of a cell. Its processes see nobody, its network has no interface.
const NAMESPACES: c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

/// The limits as the kernel takes them. The soft limit of open files is what it was before we raised ours.
pub(in crate::host) fn kernel_limits(
    limits: &ProgramLimits,
    open_files: (u64, u64),
) -> [(c_int, libc::rlimit); 5] {
    let cpu = limits.cpu.as_secs().max(1);
    [
        (
            libc::RLIMIT_CPU as c_int,
            libc::rlimit {
                rlim_cur: cpu,
                // The first process of a namespace heeds only what cannot be ignored.
                rlim_max: cpu + 1,
            },
        ),
        // Private memory that can be written; a pack that is only mapped does not count.
        (libc::RLIMIT_DATA as c_int, both(limits.memory_bytes)),
        (libc::RLIMIT_FSIZE as c_int, both(limits.file_bytes)),
        (libc::RLIMIT_CORE as c_int, both(0)),
        (
            libc::RLIMIT_NOFILE as c_int,
            libc::rlimit {
                rlim_cur: open_files.0,
                rlim_max: open_files.1,
            },
        ),
    ]
}

fn both(value: u64) -> libc::rlimit {
    libc::rlimit {
        rlim_cur: value,
        rlim_max: value,
    }
}

/// Splits the process that was forked for a program in two: the keeper, which does not return, and the
/// program's own, in which this returns to be exec'd.
///
/// # Safety
///
/// Only between fork and exec.
#[allow(unsafe_code)]
pub(in crate::host) unsafe fn split(plan: &Plan) -> io::Result<()> {
    // SAFETY: system calls on values that were made before the fork; see the head of this file.
    unsafe {
        let mut in_namespaces = false;
        if let Some(cell) = &plan.cell {
            in_namespaces = enter(cell)?;
        }
        // Before there is a child that could leave an orphan.
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1 as c_ulong);
        let keeper = libc::getpid();
        match fork()? {
            0 => {}
            child => keep(child, plan.leash.as_raw_fd()),
        }
        // From here on this is the program's own process. Its keeper's death is its own.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let is_orphan = libc::getppid() != keeper && libc::getppid() != 0;
        if is_orphan {
            libc::_exit(127);
        }
        // A group of its own: what it does to its group does not concern the keeper.
        libc::setpgid(0, 0);
        if let Some(cell) = &plan.cell {
            lock_up(cell, in_namespaces)?;
        }
        if in_namespaces {
            restrict(libc::RLIMIT_NPROC as c_int, &both(plan.processes.into()))?;
        }
        for (which, limit) in &plan.limits {
            restrict(*which, limit)?;
        }
    }
    Ok(())
}

/// Never raises what is lower already: a hard limit may be below what is wanted.
#[allow(unsafe_code)]
unsafe fn restrict(which: c_int, wanted: &libc::rlimit) -> io::Result<()> {
    let mut now = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel fills in, and reads, one structure each.
    unsafe {
        if libc::getrlimit(which as _, &mut now) != 0 {
            return Err(io::Error::last_os_error());
        }
        now.rlim_max = now.rlim_max.min(wanted.rlim_max);
        now.rlim_cur = now.rlim_max.min(wanted.rlim_cur);
        check(libc::setrlimit(which as _, &now).into())
    }
}

#[allow(unsafe_code)]
unsafe fn fork() -> io::Result<pid_t> {
    // Not libc's: its handlers take locks that another thread may have held.
    // SAFETY: a child with a copy of all memory, which goes on here.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD as c_long, 0, 0, 0, 0) };
    match pid {
        ..0 => Err(io::Error::last_os_error()),
        pid => Ok(pid as pid_t),
    }
}

/// Waits for the program or the end of the leash, whichever is first, and ends with the program's status.
#[allow(unsafe_code)]
unsafe fn keep(child: pid_t, leash: RawFd) -> ! {
    // SAFETY: system calls, and memory of this function alone.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"banger-keeper".as_ptr());
        // What our process does about signals is not done here; a terminal's reach the program.
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        let end = libc::syscall(libc::SYS_pidfd_open, child as c_long, 0) as RawFd;
        // The program's streams end with the program, and std hears of its exec, only if nobody else
        // holds them.
        let leash = libc::dup2(leash, 0);
        let end = libc::dup2(end, 1);
        libc::syscall(libc::SYS_close_range, 2 as c_uint, c_uint::MAX, 0 as c_uint);
        let mut watched = [leash, end].map(|fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        });
        loop {
            let ready = libc::poll(watched.as_mut_ptr(), 2, -1);
            if ready < 0 && *libc::__errno_location() == libc::EINTR {
                continue;
            }
            if ready < 0 || watched[0].revents != 0 || watched[1].revents != 0 {
                break;
            }
        }
        // Only if it has ended by itself does its status tell anything.
        let mut status = 0;
        let ended = libc::waitpid(child, &mut status, libc::WNOHANG) == child;
        if !ended {
            // The first of a namespace takes all the others with it, also where they cannot be listed: a keeper that
            // became another user may not.
            libc::kill(child, libc::SIGKILL);
        }
        end_family();
        if !ended {
            libc::_exit(128 + libc::SIGKILL);
        }
        match libc::WIFSIGNALED(status) {
            true => libc::_exit(128 + libc::WTERMSIG(status)),
            false => libc::_exit(libc::WEXITSTATUS(status)),
        }
    }
}

/// Kills every child until there is none: what a killed one had started becomes a child by that.
#[allow(unsafe_code)]
unsafe fn end_family() {
    // SAFETY: system calls, and memory of this function alone.
    unsafe {
        // Of this thread, which is the only one.
        const CHILDREN: &CStr = c"/proc/thread-self/children";
        let mut text = [0_u8; 4096];
        loop {
            let file = libc::open(CHILDREN.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
            let read = match file {
                ..0 => 0,
                file => {
                    let read = libc::read(file, text.as_mut_ptr().cast(), text.len());
                    libc::close(file);
                    read.max(0) as usize
                }
            };
            let mut pid: pid_t = 0;
            for &byte in text.iter().take(read) {
                match byte {
                    b'0'..=b'9' => pid = pid.wrapping_mul(10).wrapping_add((byte - b'0').into()),
                    // A number that is cut at the end of the buffer is not followed by a blank.
                    _ if pid > 0 => {
                        libc::kill(pid, libc::SIGKILL);
                        pid = 0;
                    }
                    _ => pid = 0,
                }
            }
            let mut status = 0;
            let reaped = libc::waitpid(-1, &mut status, libc::__WALL);
            if reaped < 0 && *libc::__errno_location() == libc::ECHILD {
                return;
            }
        }
    }
}

/// The keeper's part of a cell: another user, and namespaces in which its child is the first process. Says
/// whether this host has namespaces for us.
#[allow(unsafe_code)]
unsafe fn enter(cell: &Cell) -> io::Result<bool> {
    // SAFETY: system calls on values that were made before the fork.
    unsafe {
        if let Some(user) = cell.become_user {
            check(libc::syscall(
                libc::SYS_setgroups,
                0,
                std::ptr::null::<libc::gid_t>(),
            ))?;
            check(libc::syscall(libc::SYS_setresgid, user, user, user))?;
            check(libc::syscall(libc::SYS_setresuid, user, user, user))?;
            // Its own files below /proc, which the maps are, would be root's otherwise.
            check(libc::prctl(libc::PR_SET_DUMPABLE, 1 as c_ulong).into())?;
        }
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1 as c_ulong, 0, 0, 0).into())?;
        if libc::unshare(NAMESPACES) != 0 {
            return Ok(false);
        }
        put(c"/proc/self/setgroups", b"deny")?;
        put(c"/proc/self/uid_map", &cell.uid_map)?;
        put(c"/proc/self/gid_map", &cell.gid_map)?;
        Ok(true)
    }
}

/// The program's part of a cell.
#[allow(unsafe_code)]
unsafe fn lock_up(cell: &Cell, in_namespaces: bool) -> io::Result<()> {
    // SAFETY: system calls on values that were made before the fork.
    unsafe {
        libc::chdir(c"/".as_ptr());
        if in_namespaces {
            let private = libc::MS_REC | libc::MS_PRIVATE;
            let none = std::ptr::null();
            check(libc::mount(none, c"/".as_ptr(), none, private, none.cast()).into())?;
            let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            let proc = c"proc".as_ptr();
            // In a container it may be refused; its own processes are all that it sees of the old one too.
            libc::mount(proc, c"/proc".as_ptr(), proc, flags, none.cast());
        }
        for capability in 0..64 as c_ulong {
            // One that the kernel does not know, or that is gone already.
            libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
        }
        drop_capabilities()?;
        if let Some(rules) = &cell.rules {
            const SYS_LANDLOCK_RESTRICT_SELF: c_long = 446;
            check(libc::syscall(
                SYS_LANDLOCK_RESTRICT_SELF,
                rules.as_raw_fd() as c_long,
                0,
            ))?;
        }
        for input in &cell.inputs {
            check(libc::fcntl(input.as_raw_fd(), libc::F_SETFD, 0).into())?;
        }
    }
    Ok(())
}

#[allow(unsafe_code)]
unsafe fn drop_capabilities() -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    /// `_LINUX_CAPABILITY_VERSION_3`: two words of each set.
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let sets = [[0_u32; 3]; 2];
    // SAFETY: both live through the call, and have the layout that capset(2) tells.
    check(unsafe { libc::syscall(libc::SYS_capset, &header, sets.as_ptr()) })
}

#[allow(unsafe_code)]
unsafe fn put(file: &CStr, text: &[u8]) -> io::Result<()> {
    // SAFETY: system calls on values that live through them.
    unsafe {
        let file = libc::open(file.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(file.into())?;
        let written = libc::write(file, text.as_ptr().cast(), text.len());
        let failed = match written {
            ..0 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        };
        libc::close(file);
        failed
    }
}

fn check(result: c_long) -> io::Result<()> {
    match result {
        ..0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
